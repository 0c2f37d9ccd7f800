"""Files that look like a part of the configuration, but are not read because of their place."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from ephemeroot.config import sources
from ephemeroot.linux import paths
from ephemeroot.machine import files

_ELSEWHERE = (
    "/run/ephemeroot/conf.d", "/usr/local/lib/ephemeroot/conf.d", "/usr/share/ephemeroot/conf.d",
    "/etc/ephemeroot.d", "/etc/ephemeroot.conf.d", "/etc/ephemeroot.toml.d",
)  # fmt: skip
"""The places in which other programs search for drop-ins."""

_LEFT_OVER = (
    "~", ".bak", ".old", ".orig", ".disabled", ".off", ".swp", ".tmp", ".new", ".save", ".md",
    ".txt", ".rej", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-bak", ".ucf-old", ".ucf-dist",
    ".rpmsave", ".rpmnew", ".rpmorig", ".pacnew", ".pacsave", ".apk-new",
)  # fmt: skip
"""Suffixes of backup files of an editor, a package manager or the administrator."""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A file that is not read, as a path of this machine, with a hint where it must be."""

    path: str
    hint: str


def find(root: str) -> list[Misplaced]:
    """The misplaced files of the machine whose root directory is *root*, by path."""
    found: dict[str, str] = {}
    for directory in sources.DROP_INS:
        parent = os.path.dirname(directory)
        hint = f"drop-ins belong in {directory}"
        for name, kind in _entries(root, directory):
            path = f"{directory}/{name}"
            if stat.S_ISDIR(kind):
                found |= dict.fromkeys(_toml(root, path), hint)
            elif not name.endswith((".toml", *_LEFT_OVER)) and name[:6].upper() != "README":
                found[path] = "the name of a drop-in must end in .toml"
        for name, kind in _entries(root, parent):
            path = f"{parent}/{name}"
            if stat.S_ISDIR(kind) and path != directory:
                found |= dict.fromkeys(_toml(root, path), hint)
            elif name.endswith(".toml") and path != sources.MAIN:
                found[path] = hint if name != os.path.basename(sources.MAIN) else _MAIN
    for path in (f"{place}.toml" for place in (os.path.dirname(d) for d in sources.DROP_INS)):
        if os.path.basename(path) in (name for name, _ in _entries(root, os.path.dirname(path))):
            found[path] = _MAIN
    for place in _ELSEWHERE:
        found |= dict.fromkeys(_toml(root, place), f"drop-ins belong in {sources.DROP_INS[-1]}")
    return [Misplaced(files.show(root, path), found[path]) for path in sorted(found)]


_MAIN = f"the configuration is {sources.MAIN}"


def _toml(root: str, directory: str) -> list[str]:
    names = [name for name, _ in _entries(root, directory)]
    return [f"{directory}/{name}" for name in names if name.endswith(".toml")]


def _entries(root: str, path: str) -> list[tuple[str, int]]:
    """The names in the directory *path* of the machine without hidden ones, each with its type;
    empty if the directory cannot be read.
    """
    try:
        fd = files.open_directory(root, path)
    except OSError:
        return []
    try:
        return [
            (name, os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
            for name in sorted(paths.names(fd))
            if not name.startswith(".")
        ]
    except FileNotFoundError:
        return []
    finally:
        os.close(fd)
