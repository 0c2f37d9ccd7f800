"""Several devices by one name: a disk copied with dd, an LVM snapshot, a cloned partition table.

udev's links below /dev/disk go to one of them, and which one may change from boot to boot.
udev's own database knows all that claim a link; what blkid took for something else (a
member of an MD array, a path of a multipath device) claims none.
"""

from __future__ import annotations

import os

from ephemeroot.linux import devices, paths

DATABASE = "/run/udev/data"
"""A file a device, named b<major>:<minor> (systemd, src/libsystemd/sd-device: S: a link, E: a
property)."""

_AMBIGUOUS = ("by-uuid", "by-label", "by-partuuid", "by-partlabel")


class Claim:
    """A block device that claims a name: its ``number`` (``major:minor``), and the
    filesystem's and this device's UUID on it, where blkid found them.
    """

    __slots__ = ("filesystem", "member", "number")

    def __init__(self, number: str, properties: dict[str, str]) -> None:
        self.number = number
        self.filesystem = properties.get("ID_FS_UUID", "")
        self.member = properties.get("ID_FS_UUID_SUB", "")


def of(spec: str, database: str | None = None, sysfs: str = "/sys") -> list[str]:
    """The devices in /dev that *spec* may mean, if they are two or more; else nothing.

    The devices of one btrfs are one, and so are a device and what is made of it alone
    (dm-crypt with a detached header, a linear mapping): the upper one is meant. Where no
    udev runs, nothing is known and nothing returned.
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
    """``disk/by-uuid/…`` for the names that may have duplicates, ``None`` for all others."""
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
        except OSError:  # the device has just gone
            continue
        if wanted in lines:
            found.append(Claim(name[1:], properties(lines)))
    return found


def properties(lines: list[bytes]) -> dict[str, str]:
    """What the *lines* of a file in udev's database say of the device (ID_FS_TYPE, …)."""
    pairs = [os.fsdecode(line[2:]).partition("=") for line in lines if line.startswith(b"E:")]
    return {key: value for key, _, value in pairs}


def holders(number: str, sysfs: str) -> set[str]:
    """What is made of the device, at any height, as ``major:minor``."""
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
    """Without those that are devices of one filesystem, each there once."""
    if len({claim.filesystem for claim in claims}) > 1:
        return claims
    members = [claim.member for claim in claims]
    return [c for c in claims if not c.member or members.count(c.member) > 1]


def device_name(number: str, sysfs: str) -> str:
    """The kernel's name of the device, and for a mapping the one that people gave it."""
    folder = f"{sysfs}/dev/block/{number}"
    name = os.path.basename(os.path.realpath(folder)).replace("!", "/")
    return devices.mapping(folder) or f"/dev/{name}"
