"""Volumes from ``[[volumes]]`` and from /etc/fstab in one list, parents first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from ephemeroot import amounts
from ephemeroot.config.model import VOLATILE, Configuration, Volume, Wiping
from ephemeroot.config.syntax import clean, device_names
from ephemeroot.config.syntax.problem import Mistake, Place, Problem
from ephemeroot.config.syntax.quantities import Patience
from ephemeroot.hooks.operations.volumes import SUBDIRECTORY
from ephemeroot.linux import devices, duplicates, mounts, units
from ephemeroot.machine import fstab
from ephemeroot.machine.facts import Machine
from ephemeroot.machine.fstab import FstabLine, option

PRIVATE = "/run/ephemeroot/volumes"
"""The folder of the private mounts of volumes in the initramfs, named by ``units.escape_path``."""

KERNELS_OWN = ("/proc", "/sys", "/dev", "/run")
"""Every boot mounts a new filesystem there; the content never persists."""

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs")
_UNSUPPORTED = ("ceph", "glusterfs", "afs", "davfs", "lustre", "ocfs2", "gfs2")
_NAMED = ("zfs", "bcachefs")
_ALSO_MOUNTED = {"ext4": ("ext2", "ext3"), "ext3": ("ext2",), "msdos": ("vfat",)}
_TIMEOUT = "x-systemd.device-timeout"
_DEFAULT_TIMEOUT = 90  # the default of systemd, in seconds


def resolve(config: Configuration, machine: Machine, problems: list[Problem]) -> list[Volume]:
    """All volumes, parents before mounts inside them; errors go to *problems*."""
    found: dict[str, Volume] = {}
    lines = [line for line in machine.fstab if line.mount_point != "/"]
    for line in lines:
        volume = _from_line(line, machine)
        _check_timeout(line, volume.place, problems)
        earlier = found.get(line.mount_point)
        if earlier is not None and earlier.needed_for_boot and volume.needed_for_boot:
            _twice(volume, earlier, problems)
        elif earlier is None or volume.needed_for_boot:
            found[line.mount_point] = volume
    for entry in config.volumes:
        volume = replace(entry, options=_for_kernel(entry.options))
        earlier = found.get(entry.mount_point)
        if earlier is not None:
            _compare(volume, earlier, problems)
        found[entry.mount_point] = volume
        _require_mount(volume, earlier, problems)
    volumes = [found[point] for point in sorted(found, key=clean.components)]
    for volume in volumes:
        _check(volume, problems)
        _check_content(volume, machine, problems)
    return volumes


def covering(path: str, volumes: Iterable[Volume]) -> Volume | None:
    """The volume that contains *path*; ``None`` if it is on the root."""
    above = [v for v in volumes if clean.is_below(path, v.mount_point)]
    return max(above, key=lambda volume: len(clean.components(volume.mount_point)), default=None)


def begins_empty(path: str, volumes: Iterable[Volume], root: Wiping | None) -> bool:
    """Whether *path* is on a filesystem that is empty after the next boot; *root* is the wipe of
    the root.
    """
    volume = covering(path, volumes)
    if volume is not None and volume.wipe is None:
        return volume.is_volatile
    wiping = root if volume is None else volume.wipe
    if wiping is None or wiping.plugin is None:
        return False
    return wiping.plugin.starts_empty(wiping.settings)


def same_device(first: str, second: str) -> bool:
    """Whether two device names are the same filesystem; false if that cannot be found out here."""
    if _normal(first) == _normal(second):
        return True
    try:
        paths = devices.link(first), devices.link(second)
        if devices.number(paths[0]) == devices.number(paths[1]):
            return True
        uuid = devices.btrfs_uuid(paths[0])
        return uuid is not None and uuid == devices.btrfs_uuid(paths[1])
    except (OSError, ValueError):
        return False  # one of them is not on this machine, or this user may not read it


def _normal(device: str) -> str:
    try:
        return os.path.normpath(devices.link(device))
    except ValueError:
        return device


def _from_line(line: FstabLine, machine: Machine) -> Volume:
    return Volume(
        mount_point=line.mount_point,
        device=line.device,
        type=line.type,
        options=_for_kernel(line.options),
        timeout=_line_timeout(line),
        needed_for_boot=line.needed_for_boot,
        wipe=None,
        place=Place(machine.show("/etc/fstab"), line.mount_point, line.number),
        line=line,
    )


def _for_kernel(options: Iterable[str]) -> tuple[str, ...]:
    """The options without those for mount(8) and systemd only; the boot itself handles the rest."""
    return tuple(
        o
        for o in options
        if o == "_netdev" or o.startswith(SUBDIRECTORY) or not mounts.is_userspace_option(o)
    )


def _line_timeout(line: FstabLine) -> int:
    value = line.option(_TIMEOUT)
    seconds = None if value is None else fstab.time_span(value)
    return _DEFAULT_TIMEOUT if seconds is None else min(seconds, Patience.longest)


def _check_timeout(line: FstabLine, place: Place, problems: list[Problem]) -> None:
    value = line.option(_TIMEOUT)
    if value is not None and line.needed_for_boot and fstab.time_span(value) is None:
        problems.append(
            Problem.at(
                place,
                f"{_TIMEOUT}={value} is not a time: the boot uses systemd's default of "
                f"{_DEFAULT_TIMEOUT} seconds",
                'write a time such as "90s" or "2min"; 0 waits without limit',
                warning=True,
            )
        )


def _twice(volume: Volume, earlier: Volume, problems: list[Problem]) -> None:
    reason = f"{volume.mount_point} is declared twice"
    hint = f"remove this entry or the other one ({earlier.place})"
    problems.append(Problem.at(volume.place, reason, hint))


def _compare(volume: Volume, earlier: Volume, problems: list[Problem]) -> None:
    """Compare two declarations of one mount point: *volume* from the configuration with *earlier*
    from the configuration or fstab.
    """
    if earlier.line is None or (volume.needed_for_boot and earlier.needed_for_boot):
        _twice(volume, earlier, problems)
    elif volume.device and not same_device(volume.device, earlier.device):
        problems.append(
            Problem.at(
                volume.place,
                f"the device of {volume.mount_point} is {volume.device} here, but "
                f"{earlier.device} in {earlier.place}",
                "set the same device in both, or remove one of them",
            )
        )


def _require_mount(volume: Volume, earlier: Volume | None, problems: list[Problem]) -> None:
    if not volume.needed_for_boot and earlier is None:
        problems.append(
            Problem.at(
                volume.place,
                f"{volume.mount_point} is never mounted: it is not needed for boot, and /etc/fstab "
                "has no line for it",
                "add a line to /etc/fstab, or set needed-for-boot = true",
                warning=True,
            )
        )


def _check(volume: Volume, problems: list[Problem]) -> None:
    """Check one volume that the initramfs mounts."""
    if volume.line is None and volume.wipe is not None:
        _check_wipe(volume, volume.wipe, problems)
    if not volume.needed_for_boot:
        return
    for check in (_check_point, _check_type, _check_device):
        try:
            check(volume)
        except Mistake as mistake:
            problems.append(Problem.at(volume.place, mistake.reason, mistake.hint))
    _warn_of_duplicates(volume, problems)


def _warn_of_duplicates(volume: Volume, problems: list[Problem]) -> None:
    """Warn about a device name that matches several devices, for example a volume and its snapshot:
    the boot refuses it if all of them still exist.
    """
    several = duplicates.of(volume.device)
    if several:
        problems.append(
            Problem.at(
                volume.place,
                f"the boot would refuse {volume.mount_point}: its device {volume.device} matches "
                f"several: {amounts.listed(several)}",
                "remove the copies, or name the device by a unique path",
                warning=True,
            )
        )


def _check_content(volume: Volume, machine: Machine, problems: list[Problem]) -> None:
    """Compare the declared type with that of the filesystem, if it can be read."""
    if volume.needed_for_boot and volume.type == "zfs" and machine.live:
        from ephemeroot.config import datasets

        try:
            datasets.require_mountable(volume.device, volume.options)
        except Mistake as mistake:
            problems.append(Problem.at(volume.place, mistake.reason, mistake.hint))
    if not volume.needed_for_boot or volume.is_volatile or volume.type in (*_NETWORK, *_NAMED):
        return
    by_name = volume.device.startswith(("UUID=", "/dev/disk/by-uuid/"))
    if not machine.live and not by_name:
        return  # a device of that name is on another machine
    try:
        found = devices.filesystem_type(devices.link(volume.device))
    except (OSError, ValueError):
        return
    if found and volume.type != "auto" and not mounts_as(volume.type, found):
        problems.append(
            Problem.at(
                volume.place,
                f"cannot mount {volume.mount_point} as {volume.type}: {volume.device} is {found}",
                f'set type = "{found}"',
            )
        )


def mounts_as(type_: str, found: str) -> bool:
    """Whether a filesystem of the type *found* can be mounted as *type_*."""
    return found == type_ or found in _ALSO_MOUNTED.get(type_, ())


def _check_point(volume: Volume) -> None:
    point = volume.mount_point
    if point == "/":
        raise Mistake("the root is not a volume", "configure the root in [root]")
    if any(clean.is_below(point, place) for place in KERNELS_OWN):
        raise Mistake(
            f"{point} cannot be a volume: every boot mounts a new filesystem there",
            "choose another mount point",
        )
    if len(units.mount_unit(f"{PRIVATE}/{volume.name}")) > units.LONGEST:
        raise Mistake(
            f"the mount point {point[:20]}… is too long for the name of a mount unit",
            "choose a shorter mount point",
        )


def _check_type(volume: Volume) -> None:
    if "bind" in volume.options or "rbind" in volume.options or volume.type == "none":
        raise Mistake(
            f"{volume.mount_point} is a bind mount, not a volume",
            "declare the directory in [persistence] instead",
        )
    if _needs_programs(volume.type):
        raise Mistake(
            f"cannot mount {volume.mount_point} in the initramfs: {volume.type} needs a running "
            "daemon",
            "use nfs4, cifs, 9p or virtiofs, or set needed-for-boot = false",
        )
    if volume.directory and volume.type in (*VOLATILE, *_NETWORK, *_NAMED):
        raise Mistake(
            f"cannot mount a directory of {volume.type} in the initramfs",
            f"remove {SUBDIRECTORY}{volume.directory}",
        )
    if volume.type == "auto":
        raise Mistake(
            f"the type of {volume.mount_point} must not be auto",
            "set the type, so that the initramfs includes its kernel module",
        )


def _needs_programs(type_: str) -> bool:
    return type_.startswith("fuse") or type_ in _UNSUPPORTED


def _check_device(volume: Volume) -> None:
    device = volume.device
    if not device or volume.is_volatile:
        return  # an empty device is noted elsewhere
    if volume.type in _NAMED or _needs_programs(volume.type):
        return
    if volume.type in _NETWORK:
        return  # see config/network_options.py
    device_names.require(device)


def _check_wipe(volume: Volume, wipe: Wiping, problems: list[Problem]) -> None:
    def add(reason: str, hint: str) -> None:
        problems.append(Problem.at(wipe.origin.place, reason, hint))

    if not volume.needed_for_boot:
        add("only a volume needed for boot can be wiped", "set needed-for-boot = true")
    point = volume.mount_point
    if clean.is_system(point):
        add(
            f"a wiped volume at {point} would hide the programs, libraries or kernels of the base",
            "remove wipe, or make the directory a part of the base",
        )
    if "ro" in volume.options and not (wipe.plugin and wipe.plugin.wiper.MOUNTS_ROOT):
        add(f"{point} is wiped and mounted read-only: it would stay empty", 'remove "ro"')
    if wipe.plugin is None:
        return
    if wipe.plugin.wiper.MOUNTS_ROOT:
        add(
            f"the wiper {wipe.wiper} wipes only roots, not volumes",
            "remove wipe, or choose another wiper",
        )
        return
    if wipe.plugin.wiper.EPHEMERAL:
        return
    if option(volume.options, "subvolid") is not None:
        add(
            "the volume is named by subvolid=, but a new subvolume has another id",
            "name it by subvol=",
        )
    elif volume.type == wipe.plugin.wiper.SUBVOLUMES_OF and not wipe.subvolume:
        add("a wiped volume needs its own subvolume", 'add "subvol=NAME" to options')
    elif wipe.subvolume:
        check_inside(wipe, wipe.subvolume, add)


def check_inside(wipe: Wiping, subvolume: str, add: Callable[[str, str], None]) -> None:
    """Report each path of the wiper that is inside the wiped *subvolume*, or contains it."""
    if wipe.plugin is None:
        return
    for name, path in wipe.plugin.paths(wipe.settings).items():
        if clean.is_below(path, subvolume):
            add(
                f"{name} ({path}) is inside {subvolume}, which is wiped",
                "name a path outside the subvolume",
            )
        elif clean.is_below(subvolume, path):
            add(
                f"{name} ({path}) contains {subvolume}, which is wiped",
                "name a path outside the subvolume",
            )
