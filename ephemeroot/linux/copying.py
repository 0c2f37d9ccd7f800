"""Copying a tree with owners, modes, times, extended attributes, flags, links and holes.

Source and destination are open directories, and no link is followed. A process that changes a tree
during the copy can only damage the copy of that tree. Attributes are set through descriptors of new
files. On btrfs and xfs, file contents are shared with the source (``FICLONE``, ioctl_ficlone(2));
elsewhere, holes are not read.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import attributes, contents, immutable, inode_flags, paths
from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds
from ephemeroot.linux.mounts import fd_path
from ephemeroot.linux.trees import Tree
from ephemeroot.linux.workshop import is_roots_alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.linux.layers import Layers

    Skipped = Callable[[str, str], None]

OF_THE_WHOLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
"""Errors that concern the whole copy: the next entry would fail as well."""

OF_A_DISK = (
    errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN,
    errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO,
)  # fmt: skip
"""Errors of a disk or of the server of a filesystem; the content of a file cannot cause them."""


class Copier:
    """Copies trees. ``copied`` and ``shared`` count bytes, ``entries`` created entries.

    Work beyond *bounds* raises ``OutOfBounds``, and the caller removes the incomplete copy;
    counters and bounds continue over several calls. *progress* is called with the present name
    whenever ``copied`` or ``shared`` has grown.

    With *skipped*, an entry inside a tree that cannot be copied (too large for the target or for
    ``file_bytes``, an extended attribute or a name that does not fit, unreadable, too deep,
    replaced meanwhile) is reported with its path, relative to the tree, and the reason. It is left
    out, and the rest of the tree is copied. Other errors still raise: the errors *of_the_whole*, an
    error of the tree's own directory, and the other bounds. With *partial*, the other bounds do not
    raise either: entries beyond them are reported and left out, whole directories in one line, and
    ``exhausted`` is the first bound that was exceeded.

    With *layers*, the source is an overlay of the two layers, relative to the copied tree: entries
    that only the lower one has are copied from there, with whiteouts and opaque directories.

    Subvolumes in a tree become subvolumes again, also read-only ones. Those that became directories
    are in ``flattened`` by their path relative to the tree, ``""`` for the tree itself, which
    becomes a directory unless ``copy`` is called with *subvolume*.
    """

    __slots__ = (
        "_links", "entries", "exhausted", "flattened", "layers", "meter", "of_the_whole", "partial",
        "progress", "shared", "skipped",
    )  # fmt: skip

    def __init__(
        self,
        bounds: Bounds | None = None,
        *,
        progress: Callable[[str], None] | None = None,
        skipped: Skipped | None = None,
        partial: bool = False,
        of_the_whole: tuple[int, ...] = OF_THE_WHOLE,
        layers: Layers | None = None,
    ) -> None:
        self.layers = layers
        self.meter = Meter(Bounds() if bounds is None else bounds)
        self.progress = progress
        self.skipped = skipped
        self.partial = partial and skipped is not None
        self.of_the_whole = of_the_whole
        self.exhausted: OutOfBounds | None = None
        self.flattened: list[str] = []
        self.shared = self.entries = 0
        self._links: dict[tuple[int, int], str] = {}

    @property
    def copied(self) -> int:
        return self.meter.copied

    def copy(
        self, source: int, name: str, target: int, new_name: str, *, subvolume: bool = False
    ) -> None:
        """Copy the entry *name* of the directory *source* into *target* as *new_name*.

        Only root may be able to write to *target*, as to a ``Workshop``, else ``PermissionError``.
        Raises ``FileExistsError`` if *new_name* exists. Sockets are skipped, because they need
        their process. Mounts in a tree are skipped, too: the copy has an empty directory instead.
        With *subvolume*, a subvolume becomes a subvolume.
        """
        self._begin(target)
        if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            self._copy_tree(source, name, target, new_name, subvolume=subvolume)
        else:
            self.copy_leaf(source, name, target, new_name, "")

    def _copy_tree(
        self, source: int, name: str, target: int, new_name: str, *, subvolume: bool
    ) -> None:
        layers = self.layers
        if layers is None or layers.from_lower("") is None:
            Tree(self, source, name, target, new_name, subvolume=subvolume, layers=layers).copy()
            return
        lower, last = layers.open_lower_parent("")
        try:
            Tree(self, lower, last, target, new_name, subvolume=subvolume).copy()
        finally:
            os.close(lower)

    def copy_file(self, source: int, name: str, target: int, new_name: str) -> None:
        """Like ``copy``, for a regular file; raises ``OSError`` (EBUSY) if it is not one."""
        self._begin(target)
        old = _open_leaf(source, name)
        try:
            if not stat.S_ISREG(os.fstat(old).st_mode):
                raise OSError(errno.EBUSY, "changed while it was copied", name)
            self._copy_file(old, source, target, new_name, "")
        finally:
            os.close(old)

    def copy_file_or_link(self, source: int, name: str, target: int, new_name: str) -> None:
        """Like ``copy``, for a regular file or a symbolic link, which stays a link."""
        if stat.S_ISLNK(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            self._begin(target)
            self.copy_leaf(source, name, target, new_name, "")
            if stat.S_ISLNK(os.stat(new_name, dir_fd=target, follow_symlinks=False).st_mode):
                return
            os.unlink(new_name, dir_fd=target)
            raise OSError(errno.EBUSY, "changed while it was copied", name)
        self.copy_file(source, name, target, new_name)

    def _begin(self, target: int) -> None:
        self._links.clear()
        self.exhausted = None
        self.flattened = []
        if not is_roots_alone(target):
            raise OSError(errno.EPERM, "users can write to the directory of the copy")

    def report(self, path: str) -> None:
        """Call ``progress`` for *path*."""
        if self.progress is not None:
            self.progress(os.path.basename(path))

    def copy_leaf(
        self, source: int, name: str, target: int, new_name: str, path: str,
        place: tuple[int, str] | None = None,
    ) -> None:  # fmt: skip
        """Copy an entry that is not a directory. *place*: the path of *target* below an open
        directory.
        """
        try:
            old = _open_leaf(source, name)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return
            raise
        try:
            status = os.fstat(old)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                several = place if status.st_nlink > 1 else None
                if several is None or not self._link(status, target, new_name, several):
                    self._copy_file(old, source, target, new_name, path)
                    if several is not None:
                        self._links[status.st_dev, status.st_ino] = f"{several[1]}/{new_name}"
                return
            if kind == stat.S_IFSOCK:
                return
            if kind == stat.S_IFDIR:
                raise OSError(errno.EBUSY, "changed while it was copied", name)
            if kind == stat.S_IFLNK:
                os.symlink(os.readlink("", dir_fd=old), new_name, dir_fd=target)
            else:
                os.mknod(new_name, kind | 0o600, status.st_rdev, dir_fd=target)
            self.entries += 1
            new = _open_leaf(target, new_name)
            try:
                made = os.fstat(new)
                if stat.S_IFMT(made.st_mode) != kind or made.st_uid != os.geteuid():
                    raise OSError(errno.EBUSY, "replaced while it was created", new_name)
                attributes.copy(old, new)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _copy_file(self, item: int, source: int, target: int, new_name: str, path: str) -> None:
        """Copy the regular file *item*, open with ``O_PATH``, of the open *source*."""
        old = os.open(fd_path(item), os.O_RDONLY | os.O_CLOEXEC)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            new = os.open(new_name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                inode_flags.begin(old, new, source, target)
                self.fill(old, new, path or new_name)
            finally:
                os.close(new)
        finally:
            os.close(old)
        self.entries += 1

    def fill(self, old: int, new: int, path: str) -> None:
        """Copy the open file *old* into the open, empty file *new*, except for attributes that must
        be set before the content (``inode_flags.begin``).
        """
        contents.copy(old, new, self, path)
        attributes.copy(old, new)
        inode_flags.finish(old, new)

    def _link(
        self, status: os.stat_result, target: int, new_name: str, place: tuple[int, str]
    ) -> bool:
        """Link to the copy of the same file, if there is one and it still exists.

        The copy is found by its path under *place*: a descriptor for each file with several names
        could exceed the limit of a process.
        """
        first = self._links.get((status.st_dev, status.st_ino))
        if first is None:
            return False
        head, _, name = first.rpartition("/")
        try:
            directory = paths.open_beneath(place[0], head, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise
        try:
            immutable.link(directory, name, target, new_name)
        except OSError as error:
            # EXDEV: a directory with a project of its own, or in another subvolume.
            if error.errno in (errno.EMLINK, errno.EXDEV):
                return False
            raise
        finally:
            os.close(directory)
        self.entries += 1
        return True


def _open_leaf(directory: int, name: str) -> int:
    """Open the entry with ``O_PATH``, so that devices are not started and FIFOs do not block.

    Raises ``OSError``: EXDEV for a mount point.
    """
    return paths.open_entry(directory, name, os.O_PATH | os.O_NOFOLLOW)
