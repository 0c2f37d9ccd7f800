"""Which root the plan is for, in words that no reboot changes: what ``apply`` writes into it."""

from __future__ import annotations

import os

from ephemeroot.config.model import Wiping
from ephemeroot.errors import EphemerootError
from ephemeroot.linux import devices
from ephemeroot.machine.facts import Machine
from ephemeroot.machine.root import Root
from ephemeroot.wipers.contract import Named, Wiper

_BY_LABEL = ("LABEL=", "PARTLABEL=")


def of_root(wiping: Wiping, machine: Machine) -> dict[str, str]:
    """What ``Wiper.identify`` says of the root of *machine*, as far as that can be told from here:
    of a tree that is not a mounted filesystem, only what is written in it.

    A root whose ``device`` is configured by a label is every filesystem with that label, on any
    number of machines with one image.
    """
    if wiping.plugin is None:
        return {}
    wiper = wiping.plugin.wiper(dict(wiping.settings))
    place = Root.named(machine, wiping.device, wiping.subvolume)
    spec = place.device or ""
    found = _identify(wiper, machine, spec, place.subvolume, place.argument)
    uuid = _written_uuid(spec)
    if wiper.ON_DEVICE and uuid and not machine.another:
        found.setdefault("filesystem", uuid)
    if (wiping.device or "").startswith(_BY_LABEL):
        found.pop("filesystem", None)
    return found


def _identify(
    wiper: Wiper, machine: Machine, spec: str, subvolume: str | None, root: str | None
) -> dict[str, str]:
    device = _device(machine, spec, subvolume) if wiper.ON_DEVICE else ""
    written = Named(root=root, subvolume=subvolume)
    if not device and not machine.live:
        return wiper.identify(written)
    try:
        return wiper.identify(Named(device=device, root=root, subvolume=subvolume, reads=True))
    except (EphemerootError, OSError):  # a user may not read it
        return wiper.identify(written)


def _device(machine: Machine, spec: str, subvolume: str | None) -> str:
    """The root's block device; empty if it cannot be looked at. The mounted root tells it, unless
    something is mounted over it (an overlay). A tree in a directory of this machine's own disk,
    bound to where it is built, is on no device of its own.
    """
    mount = machine.root_mount
    if mount is not None and mount.source.startswith("/") and mount.fstype != "overlay":
        inner = mount.root.strip("/")
        if machine.live or inner == (subvolume or "" if mount.fstype == "btrfs" else ""):
            return mount.source
    try:
        path = devices.link(spec) if machine.live else ""
    except ValueError:
        return ""
    return path if path and os.path.exists(path) else ""


def _written_uuid(spec: str) -> str:
    """The UUID in ``UUID=…`` or in udev's link, as blkid(8) prints it."""
    for prefix in ("UUID=", "/dev/disk/by-uuid/"):
        if spec.startswith(prefix):
            uuid = spec.removeprefix(prefix).strip('"')
            return uuid.lower() if len(uuid) == 36 else uuid
    return ""
