"""Our own records in a store and in a root: root's, of bounded size, replaced atomically."""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, StoreMissing
from ephemeroot.hooks import limits, tree
from ephemeroot.linux import documents, paths

MADE = ".ephemeroot/made"
"""The file in a root that lists what the persistence stage made there, NUL-terminated."""

STATE = ".ephemeroot"
"""The directory in a store for our own records; root's alone."""

MARKER = ".ephemeroot-store"
"""The file in a store that says it is one, and which. ``apply`` writes it once, on the installed
system; without it no boot wipes."""

NO_MARKER = "(no marker yet)"
"""In a plan that is only shown, the id of a store that ``apply`` has not made yet."""


def read_marker(store: int, path: str) -> str:
    """The id in the marker of the open *store*, which is called *path*. Raises ``StoreMissing``."""
    try:
        marker = paths.open_beneath(store, MARKER, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = documents.parse(documents.read_open(marker, MARKER, 4096))
        finally:
            os.close(marker)
        return str(content["id"])
    except FileNotFoundError:
        raise StoreMissing(
            f"the directory mounted for {path} is not a store: {MARKER} is missing",
            "boot with ephemeroot=no and run 'ephemeroot apply' to write it",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreMissing(f"the marker {MARKER} of {path} is damaged: {error}") from None


def read(top: int, path: str, limit: int = limits.RECORD) -> bytes:
    """The record *path* below the open *top*.

    Raises ``OSError``: ENOENT if there is none, EFBIG if it has more than *limit* bytes; and
    ``EphemerootError`` if it, or its directory, is not root's.
    """
    fd = paths.open_beneath(top, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        directory = paths.open_beneath(top, os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        try:
            owners = {os.fstat(fd).st_uid, os.fstat(directory).st_uid}
        finally:
            os.close(directory)
        if owners != {0}:
            raise EphemerootError(f"{path} is not owned by root")
        return read_open(fd, limit, path)
    finally:
        os.close(fd)


def read_open(fd: int, limit: int, name: str) -> bytes:
    """The content of the open file *fd*, from where it stands. Raises ``OSError``: EFBIG, with
    *name*, if that is more than *limit* bytes; no more than one byte above it is ever read.
    """
    parts = []
    left = limit + 1
    while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if left == 0:
        raise OSError(errno.EFBIG, f"larger than {limit >> 20} MiB", name)
    return b"".join(parts)


def write(top: int, path: str, content: bytes) -> None:
    """Replace the record *path* (``.ephemeroot/…``) below the open *top*.

    It is durable only when the filesystem is synced.
    """
    directory, name = os.path.split(path)
    try:
        os.mkdir(directory, 0o700, dir_fd=top)
    except FileExistsError:
        pass
    parent = paths.open_beneath(top, directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{name}.new", flags, 0o600, dir_fd=parent)
        try:
            paths.write_whole(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(f"{name}.new", name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def overwrite(top: int, path: str, content: bytes) -> None:
    """Write *content* over the record *path*, in the blocks that it has: for a full filesystem.

    A power cut meanwhile leaves a record that cannot be read. Raises ``OSError``: ENOSPC if the
    blocks are too few.
    """
    fd = paths.open_beneath(top, path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        room = -(-status.st_size // status.st_blksize) * status.st_blksize
        if len(content) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        paths.write_whole(fd, content)
        os.ftruncate(fd, len(content))
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(top: int, path: str) -> None:
    """Remove the record *path*, durably; one that is missing is fine."""
    try:
        parent = paths.open_beneath(top, os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        os.unlink(os.path.basename(path), dir_fd=parent)
        os.fsync(parent)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


def read_usable(top: int, path: str) -> bytes:
    """The record *path* of the open *top*; empty if there is none that can be used."""
    try:
        return read(top, path)
    except (OSError, EphemerootError):
        return b""


def open_folder(store: int, folder: str) -> int:
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
        raise EphemerootError(f"{STATE} in the store is not owned by root")
    return fd


def made(root: int) -> frozenset[str]:
    """What the persistence stage of its boot made in the open *root*."""
    raw = read_usable(root, MADE)
    return frozenset(os.fsdecode(path) for path in raw.split(b"\0") if path)


def write_made(root: int, made_here: list[str]) -> None:
    """Add to the record of paths created in the open *root*."""
    if made_here:
        everything = sorted(made(root) | set(made_here))
        write(root, MADE, b"".join(os.fsencode(path) + b"\0" for path in everything))
