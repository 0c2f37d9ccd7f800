"""The identity of the plan's root, which ``apply`` writes into the plan and no reboot changes."""

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
    """The result of ``Wiper.identify`` for the root of *machine*. For a tree that is not a mounted
    filesystem, it has only the parts that are written in the tree.

    If ``device`` is configured by a label, every filesystem with that label is the root, so that
    machines can share an image.
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
    except (EphemerootError, OSError):  # not readable without root's privileges
        return wiper.identify(written)


def _device(machine: Machine, spec: str, subvolume: str | None) -> str:
    """The root's block device; empty if it is not known. It is the device of the mounted root,
    unless that is an overlay. A bind mount of a tree in a directory of this machine's disk has no
    device of its own.
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
