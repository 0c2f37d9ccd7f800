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
import time
from binascii import crc32

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks import limits, records, tree
from ephemeroot.hooks.unseeded import Omission, adopt_line
from ephemeroot.hooks.volumes import STATE
from ephemeroot.linux import copying, inode_flags, kernel, paths, removal, subvolume
from ephemeroot.linux.bounds import OutOfBounds
from ephemeroot.linux.workshop import PREFIX, sweep_one

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
    ``S_IFREG``), or if what it has was made by ourselves.

    What cannot be copied is left out if ``stage.allowance`` has ``omissions``, which then say so.
    Raises ``Refused`` if it is too large or the store takes nothing, and ``NotSeeded`` if it
    cannot be copied: the store is then as it was.
    """
    found = _find(root, path, kind)
    if found is None:
        return ""
    parent, name = found
    try:
        return _Seeding(stage, path, store_path, source, owner).run(parent, name)
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
    deadline = time.monotonic() + limits.CLEANING
    try:
        for name in os.listdir(seeding) if os.fstat(seeding).st_uid == 0 else ():
            if name.startswith(PREFIX):
                sweep_one(seeding, name)
            else:
                removal.remove(seeding, name, deadline, subvolumes=True, unlock=True)
    finally:
        os.close(seeding)


_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a user puts into a file causes none of these.
_OF_THE_WHOLE = copying.OF_THE_WHOLE + copying.OF_A_DISK


def takes_nothing(error: OSError) -> bool:
    """Whether *error* is not about a single file: the store, or a user's share of it, has no room
    left, it is read-only (the kernel makes it so when its disk fails), or a disk has failed.
    """
    return error.errno in _OF_THE_WHOLE


def cannot_take(store: str, path: str, error: OSError) -> Refused:
    """What a wipe must not go on after: the store has no place for what would be lost."""
    if error.errno == errno.EROFS:
        return Refused(
            f"the store {store} is read-only and cannot take {path}",
            "look for errors of its disk in the kernel log",
        )
    if error.errno in _FULL:
        return Refused(f"the store {store} is too full to take {path}", "make room in it")
    return Refused(
        f"{path} cannot be copied to the store {store}: {error.strerror}",
        "look for errors of the disks in the kernel log",
    )


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


class NotSeeded(EphemerootError):
    """A declared path cannot be copied into its store, and is not to be given up."""


class _Seeding:
    """One declared path on its way into a store."""

    __slots__ = ("left_out", "owner", "path", "source", "stage", "store_path")

    def __init__(self, stage: Stage, path: str, store_path: str, source: str, owner: Owner) -> None:
        self.stage = stage
        self.path = path
        self.store_path = store_path
        self.source = source
        self.owner = owner
        self.left_out = Omission(path, store_path, source)

    def run(self, parent: int, name: str) -> str:
        """Copy the entry *name* of the open *parent*; see ``seed``."""
        try:
            return self._copy(parent, name)
        except OSError as error:
            if takes_nothing(error):
                raise cannot_take(self.store_path, self.path, error) from error
            reason = error.strerror or str(error)
            if not self._may_be_left_out(parent, name):
                raise NotSeeded(
                    f"cannot copy {self.path} to {self.store_path}: {reason}",
                    adopt_line(self.path),
                ) from error
        except OutOfBounds as error:
            whole = not self.stage.allowance.partial and error.bound not in ("file_bytes", "depth")
            if whole or not self._may_be_left_out(parent, name):
                raise self._too_much(error) from None
            reason = error.reason
        except _NoPlace as error:
            if not self._may_be_left_out(parent, name):
                raise Refused(error.message, error.hint) from None
            reason = error.message
        omissions = self.stage.allowance.omissions
        if omissions is None:
            raise AssertionError("what may not be left out was left out")
        omissions.append(Omission(self.path, self.store_path, self.source, reason))
        return ""

    def _may_be_left_out(self, parent: int, name: str) -> bool:
        """Whether all of the path may stay behind in an old root. A user must not be able to
        prevent the wipe by what is in a file; of root's own files none is given up.
        """
        allowance = self.stage.allowance
        if allowance.omissions is None:
            return False
        if allowance.partial:
            return True
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid != 0
        except OSError:
            return False

    def _too_much(self, error: OutOfBounds) -> Refused:
        limit = self.stage.plan.seed_limit >> 20
        reason = {
            "bytes_copied": f"it is larger than the seed limit of {limit} MiB",
            "file_bytes": f"it is larger than the seed limit of {limit} MiB",
        }.get(error.bound, error.reason)
        return Refused(
            f"{self.path} is declared, the store {self.store_path} lacks it, and {reason}",
            adopt_line(self.path),
        )

    def _copy(self, parent: int, name: str) -> str:
        stage, allowance = self.stage, self.stage.allowance
        store = stage.store(self.store_path)
        copier = copying.Copier(
            limits.bounds(stage.plan.seed_limit, allowance.deadline),
            skipped=None if allowance.omissions is None else self.left_out.add,
            partial=allowance.partial,
            of_the_whole=_OF_THE_WHOLE,
        )
        place, new_name = tree.open_parent(store, self.source)
        workshop = -1
        try:
            workshop, temporary = _workshop(store, place, self.source, self.path)
            if not _clear(workshop, temporary):
                raise OSError(errno.EBUSY, "what an earlier boot has left is not removed yet")
            try:
                copier.copy(parent, name, workshop, temporary)
                _give(workshop, temporary, self.owner)
                sync(workshop)
                how = paths.RENAME_NOREPLACE
                inode_flags.rename(workshop, temporary, place, new_name, how=how)
            except (OSError, OutOfBounds):
                _remove_quietly(workshop, temporary)
                raise
        finally:
            for fd in (place, workshop):
                if fd >= 0:
                    os.close(fd)
        entries = "1 entry" if copier.entries == 1 else f"{copier.entries} entries"
        result = f"seeded, {entries}, {copier.copied + copier.shared} bytes"
        if self.left_out.count and allowance.omissions is not None:
            allowance.omissions.append(self.left_out)
            result += f", {self.left_out.count} left out"
        if copier.flattened:
            result += f", {subvolume.flattened(copier.flattened, self.path)}"
        return result


class _NoPlace(EphemerootError):
    """Where the path goes in the store, users could exchange it while it is made."""


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
        raise _NoPlace(
            f"{path} goes to a subvolume of its own in the store, where users write",
            adopt_line(path),
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
        with inode_flags.Lifted(fd):
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


def _clear(directory: int, name: str) -> bool:
    """Remove an unfinished copy of ours; whether it is gone."""
    deadline = time.monotonic() + limits.CLEANING
    return removal.remove(directory, name, deadline, subvolumes=True, unlock=True)


def _remove_quietly(directory: int, name: str) -> None:
    try:
        _clear(directory, name)
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
    """The record *path* of the open *root*; empty if there is none that can be used."""
    try:
        return records.read(root, path)
    except (OSError, EphemerootError):
        return b""


def write_made(root: int, made_here: list[str]) -> None:
    """Add to the record of what was made in the open *root*."""
    if made_here:
        everything = sorted(made(root) | set(made_here))
        write_record(root, MADE, b"".join(os.fsencode(path) + b"\0" for path in everything))


def write_record(root: int, path: str, content: bytes) -> None:
    """Write the record *path* (``.ephemeroot/…``) into the open *root*, atomically."""
    records.write(root, path, content)
