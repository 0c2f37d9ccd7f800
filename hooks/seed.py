"""Seeding: what was newly declared gets the content that the administrator saw.

Declare a path, rebuild, reboot: the store has nothing for it yet, so its content is
copied from the root that is about to be wiped, while that root still has its name; what
it does not have may come from the fresh root, for a base's defaults must not vanish
behind an empty bind. A copy is made in the store's own directory for that, made durable,
and moved to its place by one rename: a power cut leaves nothing or all of it.
"""

from __future__ import annotations

import errno
import os
import stat
from binascii import crc32

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks import tree
from ephemeroot.hooks.volumes import STATE
from ephemeroot.linux import copying, kernel, paths, removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.copies import Copy
    from ephemeroot.hooks.files import File
    from ephemeroot.hooks.stage import Stage

    Owner = tuple[int | None, int | None, int | None]

SEEDING = "seeding"
"""The directory of unfinished copies, below the store's own records."""

MADE = ".ephemeroot/made"
"""The file in a root that lists what the persistence stage made there, NUL-terminated."""


def seed(
    stage: Stage,
    root: int,
    path: str,
    store_path: str,
    source: str,
    *,
    kind: int,
    owner: Owner = (None, None, None),
) -> str:
    """Copy *path* of the open *root* to *source* in the store; say how much, or ``""``.

    *owner* is the user, group and mode that a file gets, ``None`` keeps the seed's.
    Nothing is copied if *root* has none, or not the *kind* (``stat.S_IFDIR`` or
    ``S_IFREG``), or if what it has was made by ourselves. Raises ``Refused`` if it is
    too large or does not fit: the store is then as it was.
    """
    found = _find(root, path, kind)
    if found is None:
        return ""
    parent, name = found
    try:
        return _copy(stage, parent, name, path, store_path, source, owner)
    except OSError as error:
        if takes_nothing(error):
            raise cannot_take(store_path, path, error) from error
        raise EphemerootError(f"cannot copy {path} to {store_path}: {error.strerror}") from error
    finally:
        os.close(parent)


def seed_file(stage: Stage, file: File | Copy, root: int) -> str:
    """The same for a declared file: what was asked for is given to the store's."""
    owner = (file.user, file.group, file.mode)
    return seed(stage, root, file.path, file.store, file.source, kind=stat.S_IFREG, owner=owner)


def make_directory(
    store: int, source: str, user: int, group: int, mode: int, label: str | None = None
) -> None:
    """Create the directory *source* of the open *store*, see ``tree.make_directory``.

    It is made in the store's own directory, which ``sweep`` clears: what a power cut leaves
    does not lie about in the store, and no user can exchange it. Below a mount or another
    subvolume that is not possible, and it is made where it will be.
    """
    workshop = open_records(store, SEEDING)
    try:
        parent, name = tree.open_parent(store, source)
        try:
            try:
                tree.make_directory(parent, name, user, group, mode, label, workshop=workshop)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                tree.make_directory(parent, name, user, group, mode, label)
        finally:
            os.close(parent)
    finally:
        os.close(workshop)


def sweep(store: int) -> None:
    """Remove what an interrupted boot has left in the open *store*'s own directory."""
    try:
        seeding = paths.open_beneath(store, f"{STATE}/{SEEDING}", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(seeding) if os.fstat(seeding).st_uid == 0 else ():
            removal.remove(seeding, name)
    finally:
        os.close(seeding)


def takes_nothing(error: OSError) -> bool:
    """Whether a store as a whole takes nothing: it, or somebody's share of it, has no room left,
    or it is read-only (the kernel makes it so when its disk fails).
    """
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def cannot_take(store: str, path: str, error: OSError) -> Refused:
    """What a wipe must not go on after: the store has no place for what would be lost."""
    if error.errno == errno.EROFS:
        return Refused(
            f"the store {store} is read-only and cannot take {path}",
            "look for errors of its disk in the kernel log",
        )
    return Refused(f"the store {store} is too full to take {path}", "make room in it")


def _find(root: int, path: str, kind: int) -> tuple[int, str] | None:
    """The open directory and the name of what is at *path*, if it is of that kind."""
    try:
        place = tree.resolve(root, path)
        parent, name = tree.open_parent(root, place)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.close(parent)
        return None
    if stat.S_IFMT(status.st_mode) != kind or place in made(root):
        os.close(parent)
        return None
    return parent, name


def _copy(
    stage: Stage, parent: int, name: str, path: str, store_path: str, source: str, owner: Owner
) -> str:
    store = stage.store(store_path)
    copier = copying.Copier(stage.plan.seed_limit)
    place, new_name = tree.open_parent(store, source)
    workshop = -1
    try:
        workshop, temporary = _workshop(store, place, source, path)
        try:
            removal.remove(workshop, temporary)
            copier.copy(parent, name, workshop, temporary)
            _give(workshop, temporary, owner)
            sync(workshop)
            paths.rename(workshop, temporary, place, new_name, flags=paths.RENAME_NOREPLACE)
        except (OSError, copying.TooLarge):
            _remove_quietly(workshop, temporary)
            raise
    except copying.TooLarge:
        raise Refused(
            f"{path} is declared, the store {store_path} lacks it, and it is larger than the "
            f"seed limit of {stage.plan.seed_limit >> 20} MiB",
            f"run 'ephemeroot adopt {path}'",
        ) from None
    finally:
        for fd in (place, workshop):
            if fd >= 0:
                os.close(fd)
    entries = "1 entry" if copier.entries == 1 else f"{copier.entries} entries"
    return f"seeded, {entries}, {copier.copied + copier.shared} bytes"


def _workshop(store: int, place: int, source: str, path: str) -> tuple[int, str]:
    """Where the copy is made, and under which name: in the store's own directory, or, if
    *place* is on another subvolume, beside where it will be. Not where a user could exchange
    it meanwhile.
    """
    temporary = f"{crc32(os.fsencode(source)):08x}"
    seeding = open_records(store, SEEDING)
    if os.fstat(seeding).st_dev == os.fstat(place).st_dev:
        return seeding, temporary
    os.close(seeding)
    beside = paths.open_beneath(place, ".", os.O_RDONLY | os.O_DIRECTORY)
    if not tree.is_roots_alone(os.fstat(beside)):
        os.close(beside)
        raise Refused(
            f"{path} goes to a subvolume of its own in the store, where users write",
            f"run 'ephemeroot adopt {path}'",
        )
    return beside, f".ephemeroot-new-{temporary}"


def _give(directory: int, name: str, owner: Owner) -> None:
    """Give the file what was asked for; the rest stays."""
    if owner == (None, None, None):
        return
    user, group, mode = owner
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        present = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchown(fd, -1 if user is None else user, -1 if group is None else group)
        os.fchmod(fd, present if mode is None else mode)  # after chown, which clears setuid
    finally:
        os.close(fd)


def open_records(store: int, folder: str) -> int:
    """The directory *folder* of our own records: root's alone, on the store's filesystem."""
    for name in (STATE, f"{STATE}/{folder}"):
        try:
            parent, last = tree.open_parent(store, name)
            try:
                os.mkdir(last, 0o700, dir_fd=parent)
            finally:
                os.close(parent)
        except FileExistsError:
            pass
    fd = paths.open_beneath(store, f"{STATE}/{folder}", os.O_RDONLY | os.O_DIRECTORY)
    if os.fstat(fd).st_uid != 0:
        os.close(fd)
        raise EphemerootError(f"{STATE} in the store is not root's")
    return fd


def _remove_quietly(directory: int, name: str) -> None:
    try:
        removal.remove(directory, name)
    except OSError:
        pass  # the next seeding of this path begins by removing it


def sync(fd: int) -> None:
    """Make everything on the filesystem of the open *fd* survive a power cut."""
    if kernel.libc.syncfs(fd) != 0:
        kernel.raise_errno("syncfs")


def made(root: int) -> frozenset[str]:
    """What the persistence stage of its boot made in the open *root*."""
    raw = read_record(root, MADE)
    return frozenset(os.fsdecode(path) for path in raw.split(b"\0") if path)


def read_record(root: int, path: str) -> bytes:
    """The record *path* of the open *root*; empty if there is none, or it is not root's."""
    try:
        fd = paths.open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        if os.fstat(fd).st_uid != 0:
            return b""
        raw = b""
        while part := os.read(fd, 1 << 20):
            raw += part
        return raw
    finally:
        os.close(fd)


def write_made(root: int, made_here: list[str]) -> None:
    """Add to the record of what was made in the open *root*."""
    if made_here:
        everything = sorted(made(root) | set(made_here))
        write_record(root, MADE, b"".join(os.fsencode(path) + b"\0" for path in everything))


def write_record(root: int, path: str, content: bytes) -> None:
    """Write the record *path* (``.ephemeroot/…``) into the open *root*, atomically."""
    directory, name = os.path.split(path)
    try:
        os.mkdir(directory, 0o700, dir_fd=root)
    except FileExistsError:
        pass
    parent = paths.open_beneath(root, directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{name}.new", flags, 0o600, dir_fd=parent)
        try:
            paths.write_whole(fd, content)
        finally:
            os.close(fd)
        os.rename(f"{name}.new", name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)
