"""The directories that an empty root needs before anything can be mounted on it.

systemd's switch_root makes them itself; util-linux's and busybox's make nothing.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.linux import paths
from ephemeroot.wipers import attributes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

_DIRECTORIES = (
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("etc", 0o755),
    ("var", 0o755),
    ("usr", 0o755),
    ("root", 0o700),
)
# file-hierarchy(7); where a distribution has them elsewhere, /usr has the next link.
_LINKS = (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"))
_LINK_64 = ("lib64", "usr/lib64")


NAMES = frozenset(name for name, _ in (*_DIRECTORIES, *_LINKS, _LINK_64))
"""Everything in a skeleton."""


def make(root: int, previous: int = -1) -> None:
    """Create the skeleton in the open, empty directory *root*.

    *previous* is the open root before it, -1 if there is none: SELinux labels come from it.
    """
    for name, mode in _DIRECTORIES:
        os.mkdir(name, 0o700, dir_fd=root)
        fd = os.open(name, _DIRECTORY, dir_fd=root)
        try:
            os.fchmod(fd, mode)
            if previous >= 0:
                _label(previous, name, fd)
        finally:
            os.close(fd)
    for name, target in (*_LINKS, *((_LINK_64,) if _is_64_bit() else ())):
        os.symlink(target, name, dir_fd=root)


def make_mount_point(root: int, path: str) -> None:
    """Create the directories of *path* in the open *root*, as far as they are missing.

    What leads through a symlink (``/lib/modules`` with a merged ``/usr``) is left to the
    volume that it leads into.
    """
    parent = os.dup(root)
    try:
        for part in path.strip("/").split("/"):
            try:
                os.mkdir(part, 0o755, dir_fd=parent)
            except FileExistsError:
                pass
            try:
                deeper = os.open(part, _DIRECTORY, dir_fd=parent)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return
                raise
            os.close(parent)
            parent = deeper
    finally:
        os.close(parent)


def _label(previous: int, name: str, fd: int) -> None:
    try:
        old = paths.open_beneath(previous, name, _DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    try:
        attributes.copy_label(old, fd)
    finally:
        os.close(old)


def _is_64_bit() -> bool:
    machine = os.uname().machine
    return "64" in machine or machine == "s390x"
