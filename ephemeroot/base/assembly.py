"""A base as a booted system would have it: with everything that is mounted on this one, and without
the overlays that are over the root's own directories.

The tree is attached in the mount namespace of this process (``linux.namespace``): other processes
do not see it, and the kernel removes it when this one ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from ephemeroot.base import boot_places, extensions
from ephemeroot.base.boot_filesystems import BootFilesystem
from ephemeroot.base.mounting import Assembly, attach, open_place
from ephemeroot.base.relpath import name_the_root
from ephemeroot.config.syntax import clean
from ephemeroot.errors import Refused
from ephemeroot.linux import mountinfo, mounts, namespace, paths
from ephemeroot.linux.mountinfo import Mount
from ephemeroot.old_roots import persisted

_RESOLV_CONF = "/etc/resolv.conf"
_MACHINE_ID = "/etc/machine-id"


def assemble(
    base: int,
    private: str,
    *,
    temporary: str = "",
    root: str = "",
    boot: Sequence[BootFilesystem] = (),
    here: str = "/",
) -> Assembly:
    """Mount the open subvolume *base* below the directory *private*, and in it a copy of every
    mount of this machine but the extensions of its own directories (``extensions``).

    *temporary* is the subvolume's path from the top level and *root* the root's: boot loaders
    get the latter. Without *root* no command can run in the tree, it can only be looked at. The
    filesystems *boot*, parents first, stay mounted in the tree whatever this machine unmounts.
    *here* is the root directory of the machine: of another one, all mounts below it are copied.
    Raises ``OSError``, and ``Refused`` if one of *boot* has no place in *base*.
    """
    path = os.path.realpath(private) + "/assembly"
    os.makedirs(path, 0o700, exist_ok=True)
    mounts.attach_at(_clone(base, temporary), path)
    assembly = Assembly(path, writable=bool(root))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            points = _present(assembly, base, boot) if here == "/" else _present_below(here)
            for point in points:
                _copy_mount(assembly, fd, point, here=here)
            for one in boot:
                _copy_mount(assembly, fd, one.point, alone=True)
                _require_there(fd, one)
            if root:
                if _lacks_names(fd):
                    _copy_mount(assembly, fd, _RESOLV_CONF)
                name_the_root(assembly, fd, temporary, root)
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


def _present(assembly: Assembly, base: int, boot: Sequence[BootFilesystem]) -> list[str]:
    """Mount points directly on the root, each once, parents first. Mounts on an automount point, or
    in a mount that is left out, are treated like those on the root.
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


def _present_below(here: str) -> list[str]:
    """The mount points below the directory *here*, relative to it, that are in no other one."""
    found = persisted.mount_points(here)
    return sorted(one for one in found if found.isdisjoint(clean.parents(one)))


def _is_own_file(point: str) -> bool:
    """Whether a file is mounted there that the base has as its own: a package manager replaces a
    file by rename, which fails on a mount point (EBUSY). Persistent directories stay persistent:
    the scripts of a package must find their data. systemd mounts a machine's id over its file.
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
        f"{one.point} cannot be mounted in the base: its mount point is not a directory there",
        f"'ls -ld {one.point}' must show a directory in the base, as it does on this root",
    )


def _copy_mount(
    assembly: Assembly, root: int, point: str, *, alone: bool = False, here: str = "/"
) -> None:
    """Bind *point* of the machine at *here* with all mounts in it, or *alone*, without receiving
    unmounts from elsewhere.
    """
    try:
        source = os.open(here.rstrip("/") + point, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # hidden by another mount, or gone
    try:
        directory = stat.S_ISDIR(os.fstat(source).st_mode)
        place = open_place(assembly, root, point, directory=directory)
        if place < 0:
            return
        try:
            attach(
                source, place, point,
                recursive=not alone, writable=assembly.writable, private=alone,
            )  # fmt: skip
        finally:
            os.close(place)
    finally:
        os.close(source)


def _lacks_names(root: int) -> bool:
    """Whether names cannot be looked up in the tree unless it gets this machine's
    resolv.conf: a link into /run already works.
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
