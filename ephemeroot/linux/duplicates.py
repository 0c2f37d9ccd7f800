"""Several devices with one name: a disk copied with dd, an LVM snapshot, a cloned partition table.

udev's link under /dev/disk leads to one of them, which may change from boot to boot. udev's
database has all devices that claim a link. A device that blkid identifies as something else (a
member of an MD array, a path of a multipath device) does not claim one.
"""

from __future__ import annotations

import os

from ephemeroot.linux import devices, paths

DATABASE = "/run/udev/data"
"""The file of a device is b<major>:<minor> (systemd, src/libsystemd/sd-device: S: a link, E: a
property)."""

_AMBIGUOUS = ("by-uuid", "by-label", "by-partuuid", "by-partlabel")


class Claim:
    """A block device that claims a name: its ``number`` (``major:minor``), and the UUIDs of the
    filesystem and of this device in it, if blkid found them.
    """

    __slots__ = ("filesystem", "member", "number")

    def __init__(self, number: str, properties: dict[str, str]) -> None:
        self.number = number
        self.filesystem = properties.get("ID_FS_UUID", "")
        self.member = properties.get("ID_FS_UUID_SUB", "")


def of(spec: str, database: str | None = None, sysfs: str = "/sys") -> list[str]:
    """The devices in /dev that *spec* may mean, if there is more than one; else empty.

    The devices of one btrfs are one device here, and so are a device and a mapping of it alone
    (dm-crypt with a detached header, a linear mapping), of which the upper one is meant. Without
    udev the result is empty.
    """
    link = _ambiguous_link(spec)
    if link is None:
        return []
    claims = _claims(link, database or DATABASE)
    numbers = {claim.number for claim in claims}
    claims = [claim for claim in claims if not holders(claim.number, sysfs) & numbers]
    if not link.startswith("disk/by-part"):
        claims = _without_members(claims)
    if len(claims) < 2:
        return []
    return sorted(device_name(claim.number, sysfs) for claim in claims)


def _ambiguous_link(spec: str) -> str | None:
    """``disk/by-uuid/…`` for a spec that may have duplicates, else ``None``."""
    try:
        path = devices.link(spec)
    except ValueError:
        return None
    folder = os.path.dirname(path)
    if folder in [f"/dev/disk/{kind}" for kind in _AMBIGUOUS]:
        return path[len("/dev/") :]
    return None


def _claims(link: str, database: str) -> list[Claim]:
    try:
        names = sorted(name for name in paths.names(database) if name.startswith("b"))
    except OSError:
        return []
    wanted = b"S:" + os.fsencode(link)
    found = []
    for name in names:
        try:
            lines = paths.read(f"{database}/{name}", 1 << 20).split(b"\n")
        except OSError:  # removed meanwhile
            continue
        if wanted in lines:
            found.append(Claim(name[1:], properties(lines)))
    return found


def properties(lines: list[bytes]) -> dict[str, str]:
    """The properties of the device (ID_FS_TYPE, …) in *lines* of udev's database."""
    pairs = [os.fsdecode(line[2:]).partition("=") for line in lines if line.startswith(b"E:")]
    return {key: value for key, _, value in pairs}


def holders(number: str, sysfs: str) -> set[str]:
    """The devices on top of the device, at any level, as ``major:minor``."""
    found: set[str] = set()
    below = [f"{sysfs}/dev/block/{number}"]
    while below:
        folder = f"{below.pop()}/holders"
        try:
            names = paths.names(folder)
        except OSError:
            continue
        for name in names:
            holder = f"{folder}/{name}"
            try:
                above = paths.read(f"{holder}/dev").decode("ascii").strip()
            except OSError:
                continue
            if above not in found:
                found.add(above)
                below.append(holder)
    return found


def _without_members(claims: list[Claim]) -> list[Claim]:
    """*claims* without devices of one filesystem."""
    if len({claim.filesystem for claim in claims}) > 1:
        return claims
    members = [claim.member for claim in claims]
    return [c for c in claims if not c.member or members.count(c.member) > 1]


def device_name(number: str, sysfs: str) -> str:
    """The kernel's name of the device, and the name of a mapping."""
    folder = f"{sysfs}/dev/block/{number}"
    name = os.path.basename(os.path.realpath(folder)).replace("!", "/")
    return devices.mapping(folder) or f"/dev/{name}"
