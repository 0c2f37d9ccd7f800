"""The whole disks under a block device, on which a boot loader for a BIOS is installed."""

from __future__ import annotations

import os

from ephemeroot.linux import paths

_BLOCK = "/sys/class/block"


def below(device: str) -> list[str]:
    """The paths of the disks under the block device *device* (links are followed): the disk of a
    partition, all members of an array, the devices of a mapping. Empty if it is not a block device
    of this machine.
    """
    found: dict[str, None] = {}
    left, seen = [os.path.basename(os.path.realpath(device))], set()
    while left:
        name = left.pop(0)
        folder = f"{_BLOCK}/{name}"
        if name in seen or not os.path.isdir(folder):
            continue
        seen.add(name)
        slaves = _names(f"{folder}/slaves")
        if slaves:
            left += slaves
        elif os.path.exists(f"{folder}/partition"):
            # The partition's folder is inside of its disk's (Documentation/ABI/stable/sysfs-block).
            left.append(os.path.basename(os.path.dirname(os.path.realpath(folder))))
        else:
            found[f"/dev/{name.replace('!', '/')}"] = None
    return list(found)


def _names(folder: str) -> list[str]:
    try:
        return sorted(paths.names(folder))
    except OSError:
        return []
