"""What a run must put back if it does not end well, kept on the disk until it has ended.

::

    .<base>.ephemeroot-run/record.json   which base, and which filesystems were saved
    .<base>.ephemeroot-run/modules/      the kernel modules of that base
    .<base>.ephemeroot-run/boot-0/ …     the files of each filesystem of the boot loader

The folder gets this name once it is complete and on the disk. Whether the run got as far
as replacing the base is not written down: the base's UUID tells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.backends.contract import Bases
from ephemeroot.base import boot_filesystems, bootfiles, kernels
from ephemeroot.base.boot_filesystems import BootFilesystem
from ephemeroot.base.boot_kernels import Area
from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.linux import copying, documents, paths, removal

VERSION = 2
_KNOWN = (1, 2)
_MODULES = "modules"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Saved:
    """The base's UUID before the run, and the filesystems whose files were saved."""

    base: str
    filesystems: list[BootFilesystem]


class Record:
    """The record of the base of *opened*. ``folder`` is where it is or will be."""

    def __init__(self, opened: Bases) -> None:
        self.opened = opened
        self.name = f".{opened.path.name}.ephemeroot-run"
        self.folder = opened.path.with_name(self.name)

    def exists(self) -> bool:
        """Whether a run has begun and not ended."""
        return os.path.lexists(self.folder)

    def areas(self, filesystems: Sequence[BootFilesystem]) -> list[Area]:
        """Each of *filesystems* with what ``write`` saved of it."""
        return [
            Area(one.point, Path(one.point), self.folder / f"boot-{number}")
            for number, one in enumerate(filesystems)
        ]

    def modules(self) -> int:
        """The open directory that has the saved kernel modules; -1 if the base had none."""
        if not (self.folder / _MODULES).is_dir():
            return -1
        return os.open(self.folder, _DIRECTORY)

    def write(self, filesystems: Sequence[BootFilesystem], log: Callable[[str], None]) -> None:
        """Save the base's modules and the files of *filesystems*, before the first command runs.
        Raises ``EphemerootError``.
        """
        fresh = self.folder.with_name(self.name + ".new")
        self._remove(fresh.name)
        try:
            fresh.mkdir(mode=0o700)
            base = self._base()
            try:
                modules = kernels.parent(base)
                if modules >= 0:
                    log("save the kernel modules of the base")
                    with _opened(fresh) as folder:
                        copying.Copier().copy(modules, _MODULES, folder, _MODULES)
                    os.close(modules)
            finally:
                os.close(base)
            for number, one in enumerate(filesystems):
                log(f"save {one.point}")
                bootfiles.save(Path(one.point), fresh / f"boot-{number}")
            content = {
                "version": VERSION,
                "base": self.opened.identity(),
                "saved": [{"point": one.point, "filesystem": one.identity} for one in filesystems],
            }
            (fresh / "record.json").write_text(json.dumps(content) + "\n")
        except OSError as error:
            self._remove(fresh.name)
            raise EphemerootError(
                f"cannot save the files that a failed run must restore: {error.strerror}: "
                f"{error.filename}",
                "nothing was changed",
            ) from error
        self.opened.commit()
        fresh.rename(self.folder)
        self.opened.commit()

    def undo(self, log: Callable[[str], None]) -> None:
        """Put everything back as it was saved, and remove the record.

        The boot loader's files first: what they no longer name may lose its modules.
        """
        saved = self._read().filesystems
        for one in saved:
            boot_filesystems.wake(one.point)
            if not boot_filesystems.is_mounted(one):
                what = f"the filesystem {one.identity}" if one.identity else "its filesystem"
                raise EphemerootError(
                    f"{one.point} was saved by an interrupted run, but {what} is not mounted there "
                    "now",
                    f"run 'mount {one.point}': then the next boot or 'base run' restores its files "
                    f"from {self.name}",
                )
        for area in self.areas(saved):
            restored = bootfiles.restore(area.saved or area.path, area.path)
            if restored:
                files = "1 file" if len(restored) == 1 else f"{len(restored)} files"
                log(f"restore {files} of {area.shown}")
        self._put_modules_back(self._base(), log)
        self.remove()

    def conclude(self, log: Callable[[str], None]) -> None:
        """The base was replaced: restore the modules of the previous base, if it still
        exists, and remove the record.
        """
        replaced = self._read().base
        for label, fd in self.opened.replaced():
            if self.opened.identify(fd) == replaced and self.opened.is_writable(fd):
                self._put_modules_back(fd, log, f"old base {label}")
                break
            os.close(fd)
        self.remove()

    def recover(self, log: Callable[[str], None], *, cut_off: bool = True) -> bool:
        """Complete or undo an unfinished run; return whether there was one.

        *cut_off*: the run was another process that has ended without completing.
        """
        self._remove(self.name + ".new")
        if not self.exists():
            return False
        if self._read().base == self.opened.identity():
            if cut_off:
                log("an earlier 'base run' was interrupted: the base is unchanged")
            self.undo(log)
        else:
            what = (
                "an earlier 'base run' was interrupted" if cut_off else ("this run was interrupted")
            )
            log(f"{what} after it had replaced the base")
            self.conclude(log)
        return True

    def remove(self) -> None:
        """Remove the record: the run has ended, one way or the other."""
        self.opened.commit()
        self._remove(self.name)

    def _base(self) -> int:
        return self.opened.present()

    def _put_modules_back(self, base: int, log: Callable[[str], None], name: str = "base") -> None:
        """Into the open *base*, which is closed."""
        try:
            if not (self.folder / _MODULES).is_dir():
                return
            parent = kernels.parent(base)
            if parent < 0:
                return
            try:
                with _opened(self.folder) as folder:
                    kernels.put(folder, _MODULES, parent, _MODULES)
            finally:
                os.close(parent)
            log(f"restore the kernel modules of the {name}")
        finally:
            os.close(base)

    def _read(self) -> Saved:
        try:
            content = documents.parse(documents.read(f"{self.folder}/record.json"))
            if content["version"] not in _KNOWN or not isinstance(content["saved"], list):
                raise ValueError(f"version {content['version']}")
            return Saved(str(content["base"]), [_filesystem(one) for one in content["saved"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"the record of an earlier run, {self.name}, is damaged: {error}",
                "read it in the top level of the filesystem, then remove it",
            ) from None

    def _remove(self, name: str) -> None:
        parent = self.opened.parent
        # First the name, in one step: half a record must not look like a whole one.
        gone = f"{self.name}.gone"
        removal.remove(parent, gone, unlock=True)
        try:
            paths.rename(parent, name, parent, gone, flags=paths.RENAME_NOREPLACE)
        except FileNotFoundError:
            return
        removal.remove(parent, gone, unlock=True)


def _filesystem(one: object) -> BootFilesystem:
    """An entry of the record; the first version wrote nothing but the mount point."""
    if isinstance(one, dict):
        return BootFilesystem(str(one["point"]), str(one["filesystem"]))
    return BootFilesystem(str(one), "")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)
