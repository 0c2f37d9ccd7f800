"""Walking the two trees: the store, which users write to, and the new root.

In the store no symlink is ever followed. In the new root symlinks are followed inside
it (``/var/run``, usr-merge), but only where only root can have created them: a
declared home directory is full of its user's.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import attributes, layers, paths

DIRECTORY = os.O_PATH | os.O_DIRECTORY
_LINKS = 40  # the kernel's own limit, MAXSYMLINKS


class Place:
    """The target of a path of the new root: ``name`` in the open ``directory``; ``path`` is without
    symlinks, ``status`` its status, or ``None`` if it is missing. ``close`` closes the directory.
    """

    __slots__ = ("_lent", "directory", "name", "path", "status")

    def __init__(self, lent: int, path: str = "/") -> None:
        """The last component of the resolved *path*, in the directory *lent*."""
        self._lent = self.directory = lent
        self.name = path.rpartition("/")[2]
        self.path = path
        self.status = status_of(lent, self.name) if self.name else None

    def enter(self, directory: int) -> None:
        """Continue in the open *directory*."""
        self.close()
        self.directory = directory

    def close(self) -> None:
        """Close the directory."""
        if self.directory != self._lent:
            os.close(self.directory)
        self.directory = self._lent

    def lend(self) -> int:
        """The open directory, which the caller closes."""
        self._lent = self.directory
        return self.directory


def find(root: int, path: str) -> Place:
    """Where *path* of the new root is; its last component may be missing.

    Raises ``OSError``: ELOOP where a symlink is in a directory that is not root's
    alone, ENOENT for a missing component on the way.
    """
    place = Place(root)
    try:
        _walk(place, root, path)
    except BaseException:
        place.close()
        raise
    return place


def _walk(place: Place, root: int, path: str) -> None:
    left = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    entered: list[str] = []  # what place.directory is
    links = 0
    while left:
        part = left.pop()
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        if entered != done:
            one_more = entered == done[:-1]
            directory = place.directory if one_more else root
            inside = done[-1] if one_more else "/".join(done)
            place.enter(paths.open_beneath(directory, inside, DIRECTORY))
            entered = list(done)
        place.status = status = status_of(place.directory, part)
        if status is None and left:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if status is None or not stat.S_ISLNK(status.st_mode):
            done.append(part)
            continue
        target = _trusted_target(place.directory, part, path, status)
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            done.clear()
        left.extend([p for p in target.split("/") if p][::-1])
    place.path = "/" + "/".join(done)
    place.name = done[-1] if done else ""
    if entered != done[:-1]:  # a link ended in ..
        place.enter(paths.open_beneath(root, "/".join(done[:-1]), DIRECTORY))
        place.status = status_of(place.directory, place.name) if done else None


def resolve(root: int, path: str) -> str:
    """Return *path* in the new root without symlinks, see ``find``."""
    place = find(root, path)
    place.close()
    return place.path


def resolve_leaf(root: int, path: str) -> str:
    """The same, but the last component is left as it is, a symlink or not."""
    head, _, name = path.rpartition("/")
    return resolve(root, head or "/").rstrip("/") + "/" + name


def trusted_link(directory: int, name: str, path: str, *, missing_is_fine: bool) -> str | None:
    """What the symlink *name* of the open *directory* says; ``None`` if it is not a symlink. *path*
    is for messages.

    Raises ``OSError`` (ELOOP) if another user than root may have made it, and ``FileNotFoundError``
    if it is missing, unless *missing_is_fine*.
    """
    status = status_of(directory, name)
    if status is None and not missing_is_fine:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if status is None or not stat.S_ISLNK(status.st_mode):
        return None
    return _trusted_target(directory, name, path, status)


def _trusted_target(directory: int, name: str, path: str, status: os.stat_result) -> str:
    if status.st_uid != 0 or not is_roots_alone(os.fstat(directory)):
        raise OSError(errno.ELOOP, "a user may have put a symbolic link into the path", path)
    return os.readlink(name, dir_fd=directory)


def status_of(directory: int, name: str) -> os.stat_result | None:
    """What the open *directory* has under *name*, a symlink itself; ``None`` for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_roots_alone(status: os.stat_result) -> bool:
    """Whether only root can put something into the directory with this *status*."""
    writable = stat.S_IWGRP | stat.S_IWOTH
    return status.st_uid == 0 and not status.st_mode & writable


def open_parent(root: int, path: str) -> tuple[int, str]:
    """Open the directory that holds *path*, which must be resolved; return it and the name."""
    head, _, name = path.rstrip("/").rpartition("/")
    return paths.open_beneath(root, head, DIRECTORY), name


def exists(directory: int, name: str) -> bool:
    """Whether *directory* has an entry *name*, a dangling link included."""
    return status_of(directory, name) is not None


def is_mount_point(parent: int, name: str) -> bool:
    """Whether something is mounted on the entry *name* of the open directory *parent*.

    One call, however many mounts there are: to look it up in mountinfo for each of a thousand
    binds takes half a minute.
    """
    try:
        os.close(paths.open_entry(parent, name, os.O_PATH | os.O_NOFOLLOW))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.EXDEV:
            return True
        raise
    return False


def kind_of(parent: int, name: str) -> int:
    """The type of the entry *name* of the open *parent* (``stat.S_IFREG``, …); 0 for none."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def is_directory_entry(parent: int, name: str) -> bool:
    """Whether the entry *name* of the open *parent* is a directory itself, not a link to one."""
    return kind_of(parent, name) == stat.S_IFDIR


def is_regular_entry(parent: int, name: str) -> bool:
    """Whether the entry *name* of the open *parent* is a regular file, not a link to one."""
    return kind_of(parent, name) == stat.S_IFREG


def is_directory(root: int, path: str) -> bool:
    """Whether there is a directory; ``OSError`` if there is something else."""
    try:
        os.close(paths.open_beneath(root, path, DIRECTORY))
    except FileNotFoundError:
        return False
    return True


def owner_and_mode(root: int, path: str) -> tuple[int, int, int]:
    """Owner, group and permission bits of the directory *path*, see ``attributes.own_mode``."""
    fd = paths.open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(fd)
        mode = attributes.own_mode(fd)
    finally:
        os.close(fd)
    return status.st_uid, status.st_gid, mode


def make_directory(
    parent: int,
    name: str,
    user: int,
    group: int,
    mode: int,
    label: str | None = None,
    *,
    workshop: int | None = None,
    opaque: bool = False,
) -> None:
    """Create a directory that from its first moment under *name* has owner, mode and, where
    the filesystem has them, the SELinux *label*.

    It is made under a temporary name and renamed, so that a power cut cannot leave one
    that looks like an existing one with root as its owner. An existing *name* is left alone.
    Where users can write to *parent*, they could exchange it meanwhile: then it is made in the open
    directory *workshop* on the same filesystem, which only root can write, or in a ``Workshop``.
    In an overlay, an *opaque* one hides the directory under it.
    """
    place = parent if workshop is None else workshop
    if is_roots_alone(os.fstat(place)):
        _make_in(place, parent, name, (user, group, mode, label), opaque=opaque)
        return
    from ephemeroot.linux.workshop import Workshop

    with Workshop(parent) as made:
        _make_in(made.fd, parent, name, (user, group, mode, label), opaque=opaque)


def make_mount_point(parent: int, name: str) -> int:
    """Create the directory *name* in the open *parent*, root's and closed to others, and open it
    for reading. An existing one is left alone.
    """
    if not is_roots_alone(os.fstat(parent)):
        make_directory(parent, name, 0, 0, 0o700)
        return paths.open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        made = True
    except FileExistsError:
        made = False
    fd = paths.open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(fd)
        # The parent directory may pass on its group, or have a default ACL for new entries.
        if made and (status.st_uid, status.st_gid) != (0, 0):
            os.fchown(fd, 0, 0)
        if made and stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_in(
    place: int,
    parent: int,
    name: str,
    wanted: tuple[int, int, int, str | None],
    *,
    opaque: bool,
) -> None:
    user, group, mode, label = wanted
    temporary = f".ephemeroot-new-{os.getpid()}-{os.urandom(6).hex()}"
    os.mkdir(temporary, 0o700, dir_fd=place)
    try:
        fd = paths.open_beneath(place, temporary, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fchown(fd, user, group)
            os.fchmod(fd, mode)
            if label:
                _set_label(fd, label)
            if opaque:
                os.setxattr(fd, layers.OPAQUE, b"y")
        finally:
            os.close(fd)
        paths.rename(place, temporary, parent, name, flags=paths.RENAME_NOREPLACE)
    except FileExistsError:
        os.rmdir(temporary, dir_fd=place)
    except OSError:
        os.rmdir(temporary, dir_fd=place)
        raise


def _set_label(fd: int, label: str) -> None:
    try:
        os.setxattr(fd, "security.selinux", label.encode() + b"\0")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def is_in_store(parent: int, store: int, source: str) -> bool:
    """Whether the open *parent* in the root is the very directory that holds *source* in the
    store, by a bind of it: then a link to the store's would replace, or point to, itself.
    """
    head = source.rpartition("/")[0]
    try:
        fd = paths.open_beneath(store, head, DIRECTORY)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(parent))
    finally:
        os.close(fd)


def links_to(parent: int, name: str, target: str) -> bool:
    """Whether *name* is a symlink to exactly *target*."""
    try:
        return os.readlink(name, dir_fd=parent) == target
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return False
        raise


def make_link(parent: int, name: str, target: str) -> str:
    """Have the symlink *name* to *target*; return what became of it.

    Raises ``FileExistsError`` if something else has that name: it is never replaced.
    """
    try:
        os.symlink(target, name, dir_fd=parent)
    except FileExistsError:
        if links_to(parent, name, target):
            return "already linked"
        raise FileExistsError(
            errno.EEXIST, "the root has another file there, which is not replaced", name
        ) from None
    return "linked"
