"""The boot loader's files, which lie outside the base: saved before, put back after.

On each file system one file is replaced at a time, by a rename; files that name others (a boot
loader's configuration) come after those, and removals come last. So a cut at
any moment leaves something that boots.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import paths

_NAMING = (".cfg", ".conf", ".csv", ".txt", "grubenv")
_TEMPORARY = ".ephemeroot-new"


def files(top: Path) -> dict[str, os.stat_result]:
    """Every file below *top*, by its path relative to *top*, without other mounts."""
    device = top.stat().st_dev
    listed = {}
    left = [""]
    while left:
        below = left.pop()
        with paths.entries(top / below) as found:
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                name = f"{below}/{entry.name}".lstrip("/")
                if status.st_dev != device:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    left.append(name)
                elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    listed[name] = status
    return dict(sorted(listed.items()))


def save(source: Path, target: Path) -> int:
    """Copy all files below *source* into the new folder *target*; returns bytes."""
    target.mkdir()
    total = 0
    for name, status in files(source).items():
        place = target / name
        _make_directories(place.parent)
        shutil.copy2(source / name, place, follow_symlinks=False)
        total += status.st_size
    return total


def _make_directories(path: Path) -> None:
    """Make *path* and what leads to it; ``Path.mkdir`` recurses, and Python ends that somewhere."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for one in reversed(missing):
        one.mkdir()


def changed(saved: Path, present: Path) -> list[str]:
    """Which files below *present* are not as they were *saved*, or were missing."""
    return [name for name in files(present) if not _same(saved / name, present / name)]


def restore(saved: Path, target: Path) -> list[str]:
    """Restore the files in *target* from *saved*; returns the names that differed.

    Raises ``EphemerootError`` if there is no space for them even without the new files.
    """
    wanted, present = files(saved), files(target)
    wrong = sorted(
        (name for name in wanted if not _same(saved / name, target / name)),
        key=lambda name: (names_others(name), name),
    )
    surplus = sorted((name for name in present if name not in wanted), key=_names_last)
    for name in wrong:
        try:
            _put(saved / name, target / name)
        except OSError as error:
            if error.errno != errno.ENOSPC or not surplus:
                raise EphemerootError(
                    f"cannot restore {target / name}: {error.strerror}",
                    f"run 'cp -a {saved / name} {target / name}'",
                ) from error
            _remove(target, surplus)
            surplus = []
            _put(saved / name, target / name)
    _remove(target, surplus)
    return [*wrong, *(name for name in present if name not in wanted)]


def names_others(name: str) -> bool:
    """Whether the file *name* names other boot files."""
    return name.lower().endswith(_NAMING)


def _names_last(name: str) -> tuple[bool, str]:
    """Sort key for removals: files that name others first, so that none names a removed file."""
    return not names_others(name), name


def _remove(top: Path, names: list[str]) -> None:
    for name in names:
        (top / name).unlink(missing_ok=True)
        for parent in (top / name).parents:
            if parent == top or any(parent.iterdir()):
                break
            parent.rmdir()
    _sync(top)


def rewrite(path: Path, content: bytes) -> None:
    """Replace the content of the file *path* by a rename; owner, mode and times stay."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)
        _finish(path, temporary)


def _put(source: Path, target: Path) -> None:
    _make_directories(target.parent)
    with _replacing(target) as temporary:
        if source.is_symlink():
            temporary.symlink_to(os.readlink(source))
        else:
            shutil.copyfile(source, temporary)
            _finish(source, temporary)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A name beside *target* for what takes its place at the end, in one step."""
    temporary = target.with_name(target.name + _TEMPORARY)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _finish(source: Path, temporary: Path) -> None:
    """Give the new file the attributes of *source*, and make it survive a power cut."""
    _copy_attributes(source, temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.stat()
    try:
        os.chown(target, status.st_uid, status.st_gid)
        target.chmod(stat.S_IMODE(status.st_mode))
    except PermissionError:  # vfat has neither
        pass
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _same(one: Path, other: Path) -> bool:
    try:
        first, second = one.lstat(), other.lstat()
    except FileNotFoundError:
        return False
    if stat.S_IFMT(first.st_mode) != stat.S_IFMT(second.st_mode):
        return False
    if stat.S_ISLNK(first.st_mode):
        return os.readlink(one) == os.readlink(other)
    if first.st_size != second.st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while True:
            part = a.read(1 << 20)
            if part != b.read(1 << 20):
                return False
            if not part:
                return True
