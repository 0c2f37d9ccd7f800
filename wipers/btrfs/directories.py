"""Directories on a btrfs by open descriptors: open, list."""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import Refused
from ephemeroot.linux import paths
from ephemeroot.wipers.btrfs import subvolumes


def subvolume(directory: int, text: str) -> int:
    """Open the subvolume *text* directly in *directory*; -1 if it is anything else."""
    try:
        fd = subvolumes.open_directory(directory, text)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise
    if not subvolumes.is_subvolume(fd):
        os.close(fd)
        return -1
    return fd


def names_and_inodes(directory: int) -> list[tuple[str, int]]:
    """Names and inode numbers in an open directory; a subvolume shows its id.

    Through a new descriptor: btrfs shows a descriptor only the entries that existed when it was
    opened (Linux commit 9b378f6ad48c).
    """
    with paths.entries(f"/proc/self/fd/{directory}") as found:
        return [(entry.name, entry.inode()) for entry in found]


def names_and_serials(directory: int) -> list[tuple[str, int]]:
    """The names in an open directory, each with its id if it is a subvolume, else 0.

    ``readdir`` shows a subvolume's id as its inode number, and so saves opening each.
    A plain directory may have the same number as a subvolume beside it: then look.
    """
    known = subvolumes.inside(directory)
    listed = names_and_inodes(directory)
    numbers = [inode for _, inode in listed if inode in known]
    twice = {inode for inode in known if len(numbers) > len(known) and numbers.count(inode) > 1}
    found = []
    for text, inode in listed:
        real = inode in known
        if inode in twice:
            status = os.stat(text, dir_fd=directory, follow_symlinks=False)
            real = status.st_ino == subvolumes.ROOT_INODE
        found.append((text, inode if real else 0))
    return found


def open_real(top: int, path: str, what: str) -> int:
    """Open the directory *path* below the open *top*, no symlink followed on the way.

    Raises ``FileNotFoundError`` if it is missing and ``Refused``, which names *what* it
    is, if it is anything but a real directory.
    """
    try:
        return subvolumes.open_directory(top, path) if path else os.dup(top)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(
            f"{what}, {path!r}, cannot be used as a directory: {error.strerror}",
            "use a real directory whose path has no symbolic link",
        ) from error
