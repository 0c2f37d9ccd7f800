"""The block devices that a plan's volumes are on, as far as this machine has them.

dracut looks what is below a device (LUKS, LVM, MD), so that a host-only image can make it; but
only below those that it is told of.
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
    """Their paths in /dev without links, all devices of a btrfs that is mounted among them.

    Raises ``Damaged`` for a plan that names none.
    """
    found: list[str] = []
    for device in units.waited_for(plan):
        if os.path.exists(device.path):
            path = os.path.realpath(device.path)
            found += [path, *_siblings(path)]
    return list(dict.fromkeys(found))


def _siblings(path: str) -> list[str]:
    """The other devices of the btrfs on *path*: its name leads to one of them only."""
    try:
        uuid = devices.btrfs_uuid(path)
        names = paths.names(_BTRFS / uuid / "devices") if uuid else []
    except OSError:
        return []
    return [f"/dev/{name.replace('!', '/')}" for name in sorted(names)]
