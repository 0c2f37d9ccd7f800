"""A base as a booted system would have it: with everything that is mounted on this one, and without
the overlays that are over the root's own directories.

The tree is attached in the mount namespace of this process (``linux.namespace``): other processes
do not see it, and the kernel removes it when this one ends.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ephemeroot.base import boot_places, extensions
from ephemeroot.base.boot_filesystems import BootFilesystem
from ephemeroot.errors import Refused
from ephemeroot.linux import mountinfo, mounts, namespace, paths
from ephemeroot.linux.mountinfo import Mount

_RESOLV_CONF = "/etc/resolv.conf"
_MACHINE_ID = "/etc/machine-id"
_RELPATHS = ("/usr/bin/grub-mkrelpath", "/usr/bin/grub2-mkrelpath")

# grub-mkconfig asks this program for the subvolume to boot, and would be told the copy's
# temporary name: what boots is the root.
_RELPATH = """\
#!/bin/sh
temporary={temporary}
root={root}
path=$({real} "$@") || exit
case $path in
    "$temporary" | "$temporary"/*) path=$root${{path#"$temporary"}} ;;
esac
printf '%s\\n' "$path"
"""
_FOLDER = "/run/ephemeroot-base"


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
            os.rmdir(_FOLDER)


def assemble(
    base: int,
    private: str,
    *,
    temporary: str = "",
    root: str = "",
    boot: Sequence[BootFilesystem] = (),
) -> Assembly:
    """Mount the open subvolume *base* below the directory *private*, and in it a copy of every
    mount of this machine but the extensions of its own directories (``extensions``).

    *temporary* is the subvolume's path from the top level and *root* the root's: boot loaders are
    told the latter. Without *root* no command can run in the tree, it can only be looked at. The
    filesystems *boot*, parents first, stay mounted in the tree whatever this machine unmounts.
    Raises ``OSError``, and ``Refused`` if one of *boot* has no place in *base*.
    """
    path = os.path.realpath(private) + "/assembly"
    os.makedirs(path, 0o700, exist_ok=True)
    mounts.attach_at(_clone(base, temporary), path)
    assembly = Assembly(path, writable=bool(root))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for point in _present(assembly, base, boot):
                _copy_mount(assembly, fd, point)
            for one in boot:
                _copy_mount(assembly, fd, one.point, alone=True)
                _require_there(fd, one)
            if root:
                if _lacks_names(fd):
                    _copy_mount(assembly, fd, _RESOLV_CONF)
                _tell_the_root(assembly, fd, temporary, root)
        finally:
            os.close(fd)
    except BaseException:
        assembly.detach()
        raise
    return assembly


def _clone(base: int, name: str) -> int:
    """A detached, private mount of the open subvolume *base*, as writable as the one it is in."""
    if os.fstatvfs(base).f_flag & os.ST_RDONLY:
        return mounts.clone_read_only(base, name=name)
    mount = mounts.clone(base, name=name)
    try:
        mounts.set_flags(mount, private=True, name=name)
    except BaseException:
        os.close(mount)
        raise
    return mount


def bind(source: int, assembly: Assembly, point: str) -> None:
    """Bind the open directory *source* at *point* of the assembly."""
    fd = os.open(assembly.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = paths.open_in_root(fd, point)
        try:
            _bind(source, place, point)
        finally:
            os.close(place)
    finally:
        os.close(fd)


def remove_made(base: int, made: list[str]) -> None:
    """Remove from the open subvolume *base* what was made for mounting, if it is still
    empty: an empty file would be taken for content one day.
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
            continue  # it is somebody else's by now
        finally:
            os.close(parent)


def _present(assembly: Assembly, base: int, boot: Sequence[BootFilesystem]) -> list[str]:
    """Where something is mounted directly on the root, each place once, parents first; what is
    mounted on an automount point, or in what is left out, is as good as on the root.
    """
    found = mountinfo.mounts()
    root = [mount for mount in found if mount.point == "/"][-1]
    apart = [one.point for one in boot]
    lines = [*boot_places.here(), *boot_places.of_base(base)]
    declared = {one.point for one in lines if one.device}
    places: set[str] = set()
    for mount in _children(found, root.id):
        if mount.point == namespace.POINT or any(_is_below(mount.point, p) for p in apart):
            continue
        inner: Iterator[Mount] = iter(())
        if mount.fstype == "autofs":
            inner = _children(found, mount.id)
        elif extensions.is_one(mount, base, declared):
            assembly.left_out.append(mount.point)
            inner = _children(found, mount.id)
        elif _is_own_file(mount.point):
            assembly.files.append(mount.point)
        else:
            places.add(mount.point)
        places.update(one.point for one in inner if one.fstype != "autofs")
    return sorted(places, key=lambda point: (point.count("/"), point))


def _is_own_file(point: str) -> bool:
    """Whether a file is mounted there that the base has as its own: a package manager replaces a
    file by rename, which fails on a mount point (EBUSY). Persistent directories stay persistent,
    for the scripts of a package must find their data. systemd mounts a machine's id over its file.
    """
    if point == _MACHINE_ID:
        return False
    try:
        return stat.S_ISREG(os.lstat(point).st_mode)
    except OSError:
        return False


def _children(found: list[Mount], parent: int) -> Iterator[Mount]:
    return (mount for mount in found if mount.parent == parent and mount.point != "/")


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}/")


def _require_there(root: int, one: BootFilesystem) -> None:
    fd = paths.open_in_root(root, one.point)
    try:
        if os.path.samestat(os.fstat(fd), os.stat(one.point)):
            return
    finally:
        os.close(fd)
    raise Refused(
        f"{one.point} cannot be mounted in the base, which has something else there",
        f"'ls -ld {one.point}' must show a directory in the base, as it does on this root",
    )


def _copy_mount(assembly: Assembly, root: int, point: str, *, alone: bool = False) -> None:
    """Bind what is at *point* of this machine, with all that is mounted in it; or *alone*, and so
    that no unmounting elsewhere reaches it.
    """
    try:
        source = os.open(point, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # hidden by another mount, or gone
    try:
        directory = stat.S_ISDIR(os.fstat(source).st_mode)
        place = _place(assembly, root, point, directory=directory)
        if place < 0:
            return
        try:
            _bind(
                source, place, point,
                recursive=not alone, writable=assembly.writable, private=alone,
            )  # fmt: skip
        finally:
            os.close(place)
    finally:
        os.close(source)


def _place(assembly: Assembly, root: int, point: str, *, directory: bool) -> int:
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


def _lacks_names(root: int) -> bool:
    """Whether names cannot be looked up in the tree unless it gets this machine's
    resolv.conf: one that is a link into /run is there already.
    """
    try:
        own = paths.open_in_root(root, _RESOLV_CONF)
    except OSError:
        own = -1
    try:
        here = os.stat(_RESOLV_CONF)
        return own < 0 or not os.path.samestat(os.fstat(own), here)
    except OSError:
        return False
    finally:
        if own >= 0:
            os.close(own)


def _tell_the_root(assembly: Assembly, root: int, temporary: str, named: str) -> None:
    """Put a program around each that tells a boot loader where the root lies."""
    for program in _RELPATHS:
        try:
            place = paths.open_in_root(root, program)
        except OSError:
            continue
        try:
            name = os.path.basename(program)
            real = f"{_FOLDER}/{name}.real"
            text = _RELPATH.format(
                temporary=shlex.quote(f"/{temporary}"), root=shlex.quote(f"/{named}"), real=real
            )
            folder = _folder(assembly, root)
            try:
                _write(folder, f"{name}.real", "")
                _write(folder, name, text)
                for source, target in ((place, real), (-1, program)):
                    _bind_inside(root, source, f"{_FOLDER}/{name}", target)
            finally:
                os.close(folder)
        finally:
            os.close(place)


def _folder(assembly: Assembly, root: int) -> int:
    """A small file system of the assembly's own, open."""
    place = _place(assembly, root, _FOLDER, directory=True)
    try:
        if not os.path.ismount(assembly.path + _FOLDER):
            mount = mounts.create("tmpfs", "tmpfs", ["mode=0755"])
            try:
                mounts.attach(mount, place, name=_FOLDER)
            finally:
                os.close(mount)
    finally:
        os.close(place)
    return paths.open_in_root(root, _FOLDER, os.O_RDONLY | os.O_DIRECTORY)


def _write(folder: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755, dir_fd=folder)
    with os.fdopen(fd, "w") as file:
        os.fchmod(fd, 0o755)
        file.write(text)


def _bind_inside(root: int, source: int, named: str, target: str) -> None:
    """Bind *source*, or what is *named* in the tree if that is -1, at *target* of the tree."""
    opened = source if source >= 0 else paths.open_in_root(root, named)
    try:
        place = paths.open_in_root(root, target)
        try:
            _bind(opened, place, target)
        finally:
            os.close(place)
    finally:
        if source < 0:
            os.close(opened)


def _bind(
    source: int,
    place: int,
    name: str,
    *,
    recursive: bool = False,
    writable: bool = True,
    private: bool = False,
) -> None:
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
