"""The block devices of a plan's volumes, as far as this machine has them.

In a host-only image, dracut includes everything under a device (LUKS, LVM, MD), but only for the
devices that it is given.
"""

from __future__ import annotations

import os
from pathlib import Path

from ephemeroot.hooks.plan import Plan
from ephemeroot.image import units
from ephemeroot.linux import devices, paths

# fs/btrfs/sysfs.c: a link to each device of a mounted filesystem
_BTRFS = Path("/sys/fs/btrfs")


def of(plan: Plan) -> list[str]:
    """Their paths in /dev without links, with all devices of a mounted btrfs.

    Raises ``Damaged`` for a plan with an invalid device.
    """
    found: list[str] = []
    for device in units.waited_for(plan):
        if os.path.exists(device.path):
            path = os.path.realpath(device.path)
            found += [path, *_siblings(path)]
    return list(dict.fromkeys(found))


def _siblings(path: str) -> list[str]:
    """The other devices of the btrfs on *path*."""
    try:
        uuid = devices.btrfs_uuid(path)
        names = paths.names(_BTRFS / uuid / "devices") if uuid else []
    except OSError:
        return []
    return [f"/dev/{name.replace('!', '/')}" for name in sorted(names)]
