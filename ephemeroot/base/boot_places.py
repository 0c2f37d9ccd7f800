"""Where a machine says that something the boot loader uses is mounted.

A place is named by /etc/fstab, by a unit (systemd.mount(5), systemd.automount(5)) or by an
automount point. Whether the boot loader uses it is seen by where it is, or by its content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ephemeroot.linux import mountinfo
from ephemeroot.machine import fstab
from ephemeroot.machine.units import text_of, units_of

USUAL = ("/boot", "/boot/efi", "/boot/firmware", "/efi", "/esp")
"""The directories in which distributions keep boot files."""

_NAME = re.compile(r"/(boot|efi|esp)[^/]*(/.*)?|/.*/(efi|esp|xbootldr)\d*", re.IGNORECASE)
# Where the mount has nothing to do with how this machine boots, whatever its name.
_NEVER = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp")  # not a file of Ephemeroot's


@dataclass(frozen=True, slots=True)
class Declared:
    """A mount that *origin* declares: *device* and *type* are as it has them, perhaps empty."""

    point: str
    device: str
    type: str
    origin: str


def is_named(point: str) -> bool:
    """Whether *point* is a place by whose name boot loaders are known."""
    return bool(_NAME.fullmatch(point)) and not is_never(point)


def is_never(point: str) -> bool:
    """Whether nothing that is mounted at *point* boots this machine."""
    return any(point == place or point.startswith(f"{place}/") for place in _NEVER)


def holders() -> list[str]:
    """The usual places of this machine, links resolved: any mount around one of them has
    it on it.
    """
    return sorted({os.path.realpath(place) for place in USUAL if os.path.lexists(place)})


def here() -> list[Declared]:
    """All that this machine declares; the first of several for one place stands."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _first([*_of_tree(root, ""), *_automounts()])
    finally:
        os.close(root)


def of_base(base: int) -> list[Declared]:
    """All boot filesystems that the open *base* declares."""
    return _first(_of_tree(base, " of the base"))


def _first(found: Iterable[Declared]) -> list[Declared]:
    places: dict[str, Declared] = {}
    for one in found:
        places.setdefault(one.point, one)
    return list(places.values())


def _automounts() -> Iterator[Declared]:
    for mount in mountinfo.mounts():
        if mount.fstype == "autofs":
            yield Declared(mount.point, "", "", "an automount point")


def _of_tree(root: int, of: str) -> Iterator[Declared]:
    for line in fstab.parse(text_of(root, "/etc/fstab")):
        yield Declared(line.mount_point, line.device, line.type, f"/etc/fstab{of}")
    for unit in units_of(root, (".mount", ".automount")):
        where = unit.last("Where")
        if where.startswith("/"):
            point = "/" + "/".join(filter(None, where.split("/")))
            yield Declared(point, unit.last("What"), unit.last("Type"), f"{unit.path}{of}")
