"""Replacing several files of a store together.

They are copied into the store's own directory and made durable; a record lists them, and
only then they are renamed. A power cut before the record leaves the old ones, one after
it the new ones, for who comes next completes the renames: the same boot, or the next
one before it reads a file.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import limits, records, tree
from ephemeroot.hooks.records import STATE
from ephemeroot.linux import copying, documents, immutable, kernel, paths, removal
from ephemeroot.linux.workshop import Workshop

FOLDER = "copies"
"""The directory of copies on their way, below the store's own records."""

_COMMIT = "commit"

# A name in the store that cannot be replaced, today or ever. It must not
# keep the other files from being stored.
_HOPELESS = (
    errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.EXDEV, errno.EPERM,
    errno.ENOTEMPTY,
)  # fmt: skip


def recover(store: int) -> None:
    """Complete what a power cut has interrupted in the open *store*."""
    try:
        folder = paths.open_beneath(store, f"{STATE}/{FOLDER}", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        if os.fstat(folder).st_uid != 0:
            raise EphemerootError(f"{STATE} in the store is not owned by root")
        complete(store, folder)
    finally:
        os.close(folder)


def complete(store: int, folder: int) -> dict[str, OSError]:
    """Carry out the record's renames; the ones that failed, by the store's path.

    The record stays if something failed that may work another time.
    """
    failed = {}
    done = True
    for temporary, source in _read_commit(folder):
        try:
            parent, name = tree.open_parent(store, source)
            try:
                move(folder, temporary, parent, name)
            finally:
                os.close(parent)
        except OSError as error:
            if error.errno == errno.ENOENT and not tree.exists(folder, temporary):
                continue  # renamed before the power went
            failed[source] = error
            done &= error.errno in _HOPELESS
    if tree.exists(folder, _COMMIT):
        kernel.sync_filesystem(folder)
        if done:
            os.unlink(_COMMIT, dir_fd=folder)
    return failed


def move(folder: int, temporary: str, parent: int, name: str) -> None:
    """Give the file or link *temporary* of the open *folder* the *name* in *parent*, replacing an
    existing one. From another subvolume it cannot be renamed (EXDEV) and is copied first.
    """
    try:
        immutable.rename(folder, temporary, parent, name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with Workshop(parent) as workshop:
            copying.Copier().copy_file_or_link(folder, temporary, workshop.fd, temporary)
            kernel.sync_filesystem(workshop.fd)
            immutable.rename(workshop.fd, temporary, parent, name)
        removal.remove(folder, temporary, unlock=True)


def publish(folder: int, names: list[str]) -> None:
    """Rename the complete, synced ``NAME.new`` to its name in *folder*. A record of a rename
    that is still to be done may name it: a copy that is not complete must never have it.
    """
    for name in names:
        immutable.rename(folder, f"{name}.new", folder, name)


def commit(folder: int, renames: list[list[str]]) -> None:
    """Record that each file in *folder* (``[name, path in the store]``) will be renamed, in
    addition to earlier renames that failed.
    """
    new = {temporary for temporary, _ in renames}
    older = [[name, source] for name, source in _read_commit(folder)
             if name not in new and tree.exists(folder, name)]  # fmt: skip
    renames = [*older, *renames]
    fd = os.open(
        f"{_COMMIT}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder
    )
    try:
        paths.write_whole(fd, documents.dump(renames))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(f"{_COMMIT}.new", _COMMIT, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _read_commit(folder: int) -> list[tuple[str, str]]:
    try:
        renames = documents.parse(content(folder, _COMMIT))
        return [(str(temporary), str(source)) for temporary, source in renames]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        return []  # not written by Ephemeroot: it is renamed into place when it is whole


def content(directory: int, name: str) -> bytes:
    """The content of a file of Ephemeroot's in the open *directory*. Raises ``OSError``: EFBIG for
    one of more than ``limits.RECORD`` bytes.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return records.read_open(fd, limits.RECORD, name)
    finally:
        os.close(fd)
