"""Mounts in the tree of a base, at places that are made if they are missing, and removed after."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field

from ephemeroot.linux import mountinfo, mounts, paths

FOLDER = "/run/ephemeroot-base"
"""What an assembly has of its own, in its tree."""


@dataclass
class Assembly:
    """The tree at ``path``. ``made`` are the mount points that were made for it, ``files`` the
    files that are bound on this machine and the base's own in the tree, ``left_out`` the
    overlays that it does not have. Unless it is ``writable`` nothing can be written through what it
    has of this machine's mounts.
    """

    path: str
    writable: bool = True
    made: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def detach(self) -> None:
        """Unmount everything."""
        while mountinfo.mounted_at(self.path) is not None:
            mounts.detach(self.path)
        with suppress(OSError):  # not ours, or in use by another run
            os.rmdir(FOLDER)


def bind(source: int, assembly: Assembly, point: str) -> None:
    """Bind the open directory *source* at *point* of the assembly."""
    fd = os.open(assembly.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = paths.open_in_root(fd, point)
        try:
            attach(source, place, point)
        finally:
            os.close(place)
    finally:
        os.close(fd)


def remove_made(base: int, made: list[str]) -> None:
    """Remove from the open subvolume *base* the mount points that were created, if they
    are still empty: a later reader would take an empty file for content.
    """
    for path in reversed(made):
        directory, _, name = path.strip("/").rpartition("/")
        try:
            parent = paths.open_in_root(base, "/" + directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # it has gone meanwhile
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=parent)
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(name, dir_fd=parent)
        except OSError:
            continue  # it is another owner's by now
        finally:
            os.close(parent)


def open_place(assembly: Assembly, root: int, point: str, *, directory: bool) -> int:
    """The open place for a mount at *point*, made if it is missing; -1 if it cannot be one."""
    parts = point.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        path = "/" + "/".join(parts[:count])
        try:
            os.close(paths.open_in_root(root, path))
            continue
        except FileNotFoundError:
            pass
        above = paths.open_in_root(root, os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            if directory or count < len(parts):
                os.mkdir(parts[count - 1], 0o755, dir_fd=above)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(parts[count - 1], flags, 0o644, dir_fd=above))
        except FileExistsError:  # a link that leads nowhere
            return -1
        finally:
            os.close(above)
        assembly.made.append(path)
    place = paths.open_in_root(root, point)
    if stat.S_ISDIR(os.fstat(place).st_mode) != directory:
        os.close(place)
        return -1
    return place


def attach(
    source: int,
    place: int,
    name: str,
    *,
    recursive: bool = False,
    writable: bool = True,
    private: bool = False,
) -> None:
    """Attach a copy of the mount that *source* is open on at the open *place*, which is *name*."""
    mount = mounts.clone(source, recursive=recursive, name=name)
    try:
        if not writable:
            flags = mounts.MOUNT_ATTR_RDONLY
            mounts.set_flags(mount, set_=flags, recursive=recursive, name=name)
        if private:
            mounts.set_flags(mount, private=True, name=name)
        mounts.attach(mount, place, name=name)
    finally:
        os.close(mount)
