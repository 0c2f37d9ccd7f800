"""Whether a command has changed anything in the copy of a base."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator

from ephemeroot.backends.contract import Bases
from ephemeroot.base import kernels
from ephemeroot.errors import EphemerootError
from ephemeroot.linux import bounds, comparison, inode_flags
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.old_roots.comparison import CHANGED, Comparison, Difference, opened

_ANY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unchanged(EphemerootError):
    """The copy equals the base: the base stays, and no old base is made."""


def is_changed(
    opened_: Bases, base: int, copy: int, saved_modules: int, scratch: Collection[str] = ()
) -> bool:
    """Whether the open *copy* differs from the open *base* that it was made of, except under
    the paths in *scratch*.

    The kernel modules are changed in the base itself while the command runs: they are compared with
    the modules saved before in the open directory *saved_modules* (-1: the base had none), which is
    closed.
    """
    opened_.commit()  # recent writes are not in the trees yet
    try:
        found = _Exact(
            skip=lambda path: any(f"{path}/".startswith(f"{one}/") for one in scratch),
            related=True,
            changed_since=opened_.changed_since(copy, base),
        )
        different = any(True for _ in found.run(base, copy)) or bool(found.problems)
        return different or not _same_modules(base, saved_modules)
    finally:
        if saved_modules >= 0:
            os.close(saved_modules)


def _same_modules(base: int, saved: int) -> bool:
    parent = kernels.parent(base)
    try:
        if parent < 0 or saved < 0:
            return parent == saved
        meter = Meter(bounds.attended())
        return comparison.same_tree(parent, "modules", saved, "modules", meter)
    except (OSError, OutOfBounds):
        return False
    finally:
        if parent >= 0:
            os.close(parent)


class _Exact(Comparison):
    """The time of the last change to a file is part of it. That of a directory is not: mount points
    that were made for the command and removed again change it.
    """

    def _changed(
        self, old: int, new: int, path: str, was: os.stat_result, now: os.stat_result
    ) -> Iterator[Difference]:
        if was.st_ino == now.st_ino and was.st_ctime_ns == now.st_ctime_ns:
            return
        kind = stat.S_IFMT(was.st_mode)
        same = kind == stat.S_IFMT(now.st_mode)
        same = same and (kind == stat.S_IFDIR or was.st_mtime_ns == now.st_mtime_ns)
        if same and kind in (stat.S_IFDIR, stat.S_IFREG):
            with opened(old, path, _ANY) as one, opened(new, path, _ANY) as other:
                same = inode_flags.flags(one) == inode_flags.flags(other)
        if not same:
            yield Difference(path, CHANGED, "file", 0)
            return
        yield from super()._changed(old, new, path, was, now)
