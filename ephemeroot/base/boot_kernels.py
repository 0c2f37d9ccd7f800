"""The kernels that can be started here, and whether a base has modules for each.

One rule for all of them: a kernel that this run brought, or whose modules it removed, must have
modules in the new base. One that had none before (a rescue kernel, another system's) is named, and
no reason to give up a run that has nothing to do with it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.base import bootfiles
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.image import kernel_image
from ephemeroot.linux import kernel_modules

# Other files with the name of a kernel of that release.
_NAMED = re.compile(r"vmlinuz-(\d+\.\d.*)")


class Area:
    """Files at ``path`` that the boot loader reads, called ``shown`` in messages; ``saved`` is what
    they were before, if something was saved.
    """

    def __init__(self, shown: str, path: Path, saved: Path | None = None) -> None:
        self.shown = shown
        self.path = path
        self.saved = saved
        self._changed: frozenset[str] | None = None

    def changed(self) -> frozenset[str]:
        """The names of files that differ from the saved ones, as of the first call."""
        if self._changed is None:
            names = bootfiles.changed(self.saved, self.path) if self.saved is not None else []
            self._changed = frozenset(names)
        return self._changed


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file: its ``release``, or why it cannot be read, with a hint.

    ``fresh``: it is new, or differs from the saved file.
    """

    shown: str
    release: str = ""
    problem: str = ""
    hint: str = ""
    fresh: bool = False


@dataclass(slots=True)
class Check:
    """``log`` gets information; ``ask`` gets message and hint of a question to the
    administrator, and raises ``EphemerootError`` if they refuse.
    """

    log: Callable[[str], None]
    ask: Callable[[str, str], None]
    before: set[str] = field(default_factory=set)

    def begin(self, tree: int) -> None:
        """Remember what the open *tree* has modules for before anything is changed."""
        self.before = kernel_modules.releases(tree)

    def require(self, tree: int, areas: Iterable[Area]) -> None:
        """Raise ``Refused`` for a kernel that would find no modules in the open *tree*, and ask
        about one that cannot be read.
        """
        now = kernel_modules.releases(tree)
        if not now and not self.before:
            return  # everything is built in
        for kernel in find(areas):
            if kernel.problem:
                if kernel.fresh or self.before - now:
                    self.ask(kernel.problem, kernel.hint)
                else:
                    self.log(f"warning: {kernel.problem}")
            elif kernel.release not in now:
                message = f"{kernel.shown} would find no modules in the new base"
                if kernel.fresh or kernel.release in self.before:
                    raise Refused(
                        f"{message}: it is the kernel {kernel.release}",
                        f"install the kernel {kernel.release} with its modules in the same run, or "
                        f"remove {kernel.shown}",
                    )
                self.log(f"warning: {message}: it is the kernel {kernel.release}")


def find(areas: Iterable[Area]) -> Iterator[Kernel]:
    """Every kernel in *areas*. Raises ``OSError``."""
    for area in areas:
        changed = area.changed()
        for name, status in bootfiles.files(area.path).items():
            if not stat.S_ISREG(status.st_mode):
                continue  # a link: what it leads to is here, or cannot be started
            kernel = _read(area, name, fresh=name in changed)
            if kernel is not None:
                yield kernel


def _read(area: Area, name: str, *, fresh: bool) -> Kernel | None:
    shown = os.path.join(area.shown, name)
    path = area.path / name
    try:
        release = kernel_image.read(path)
    except EphemerootError as error:
        problem, hint = (text.replace(str(path), shown) for text in (error.message, error.hint))
        return Kernel(shown, problem=problem, hint=hint, fresh=fresh)
    if release is None:
        named = _NAMED.fullmatch(path.name)
        return Kernel(shown, named[1], fresh=fresh) if named else None
    return Kernel(shown, release, fresh=fresh)
