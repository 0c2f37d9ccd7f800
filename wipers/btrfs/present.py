"""The present root of a btrfs history: its origin, and the changes since then."""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import bounds, kernel_modules, mounts, paths, walk
from ephemeroot.linux.bounds import Meter
from ephemeroot.wipers.btrfs import changed_since, subvolumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.btrfs.toplevel import Toplevel

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Present:
    """The root mounted at *live*, open until ``close``; *top* is the top level of its btrfs.

    Raises ``EphemerootError`` if the mount there is no subvolume of that filesystem.
    """

    __slots__ = ("fd", "info", "top")

    def __init__(self, top: Toplevel, live: str) -> None:
        self.top = top
        self.fd = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self._is_of(top):
                raise EphemerootError(f"{live} is not a subvolume of the btrfs on {top.device}")
            self.info = subvolumes.library().subvolume_info(mounts.fd_path(self.fd))
        except BaseException:
            self.close()
            raise

    def _is_of(self, top: Toplevel) -> bool:
        try:
            return subvolumes.filesystem(self.fd) == top.uuid and subvolumes.is_subvolume(self.fd)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):  # no btrfs at all
                return False
            raise

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Present:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def origin(self) -> int:
        """Open the subvolume that it is a snapshot of; -1 if it was made empty.

        Raises ``EphemerootError`` if that does not exist any more.
        """
        uuid = self.info.parent_uuid
        if not any(uuid):
            return -1
        library = subvolumes.library()
        for path, info in library.SubvolumeIterator(mounts.fd_path(self.top.fd), top=5, info=True):
            if info.uuid == uuid:
                return subvolumes.open_directory(self.top.fd, str(path))
        raise EphemerootError(
            "the source of the present root no longer exists",
            "compare with --against base",
        )

    def require_unchanged(self, origin: int) -> None:
        """Raise ``EphemerootError`` unless the open *origin* is as it was then, but for its kernel
        modules: ``ephemeroot base run`` puts those of a base that it replaces back unchanged.
        """
        since, made = self.info.otransid + 1, self.info.otime
        found = changed_since.since(origin, since, changed_after=made)
        if found is None or (found and found - _modules(origin)):
            raise EphemerootError(
                "the source of the present root was changed since this boot",
                "compare with --against base",
            )

    def changed_since(self) -> set[int] | None:
        """See ``changed_since.since``."""
        origin = self.origin()
        try:
            # A snapshot is made by the commit of its transaction (create_pending_snapshot in
            # fs/btrfs/transaction.c): whatever was written to it was written in a later one.
            since = self.info.otransid + (origin >= 0)
            return changed_since.since(self.fd, since, origin=origin)
        finally:
            if origin >= 0:
                os.close(origin)


def _modules(root: int) -> set[int]:
    """The inode numbers of the kernel modules in the open *root*, and of the directories above."""
    found: set[int] = set()
    meter = Meter(bounds.attended())
    for place in kernel_modules.PLACES:
        parts = place.strip("/").split("/")
        try:
            for depth in range(len(parts)):
                fd = paths.open_beneath(root, "/".join(parts[:depth]) or ".", _DIRECTORY)
                try:
                    found.add(os.fstat(fd).st_ino)
                    if depth == len(parts) - 1:
                        below = walk.below(fd, parts[-1], meter)
                        found.add(os.stat(parts[-1], dir_fd=fd, follow_symlinks=False).st_ino)
                        found |= {status.st_ino for _, status in below}
                finally:
                    os.close(fd)
        except OSError:  # missing, or a link into /usr
            continue
    return found
