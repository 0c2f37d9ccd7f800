"""The contents of an image: a folder that the generators copy, and additions by the generators."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.image.tree import FOLDER, Tree

PLAN = f"{FOLDER}/plan.json"
BOOT = f"{FOLDER}/boot"
BUNDLE = f"{FOLDER}/bundle"
REASON = f"{FOLDER}/inert"
SETTINGS = f"{FOLDER}/settings"
MODULES = f"{FOLDER}/kernel-modules"
DEVICES = f"{FOLDER}/devices"
"""The devices that a generator's loop waits for: a line with seconds and path for each."""

MOUNTS_ROOT = f"{FOLDER}/mounts-root"
"""Present if the wiper mounts the root, so that the generator's init must not."""


@dataclass(frozen=True)
class Script:
    """A script of Ephemeroot's that the generator's module adds when it reads ``line``. Its name in
    the image ends in ``end``; messages call it ``title``.
    """

    line: str
    end: str
    title: str


class Contents:
    """The contents of one image: the files in ``tree``, the kernel modules ``modules``, the devices
    in ``waits`` (paths in /dev with a timeout in seconds, 0 for no timeout), and the ``scripts``
    for an init of the generator's own.

    ``reason`` is why the image is inert, or ``None``; ``armed``: the image wipes.
    """

    __slots__ = ("armed", "modules", "reason", "scripts", "tree", "waits")

    def __init__(self, top: Path) -> None:
        self.tree = Tree(top)
        self.modules: list[str] = []
        self.waits: dict[str, int] = {}
        self.scripts: list[Script] = []
        self.reason: str | None = None
        self.armed = False

    def lines(self) -> list[str]:
        """The lines that every generator's module reads, with tabs between words: ``copy SOURCE
        DESTINATION``, ``link TARGET NAME``, ``folder NAME``, ``module NAME`` (a kernel module).
        """
        lines = [self._line(path) for path in self.tree.files()]
        lines += [f"folder\t{self.tree.name(path)}" for path in self.tree.empty_folders()]
        return lines + [f"module\t{name}" for name in self.modules]

    def _line(self, path: Path) -> str:
        if path.is_symlink():
            return f"link\t{os.readlink(path)}\t{self.tree.name(path)}"
        return f"copy\t{path}\t{self.tree.name(path)}"
