"""Requirements of network volumes in an image, beyond the generator's own network modules."""

from __future__ import annotations

import os
from pathlib import Path

from ephemeroot.hooks.operations import network
from ephemeroot.hooks.operations.network import Network
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import units
from ephemeroot.image.tree import Tree
from ephemeroot.machine import fstab

PYTHON = ["ephemeroot.linux.network", "pyroute2"]
EXERCISE = ["ephemeroot.linux.network:exercise"]

CIPHERS = ("cmac", "hmac", "sha512", "aes", "ccm", "gcm", "ecb", "md5", "nls_utf8")
"""Ciphers of SMB; which of them are modules depends on the kernel."""

_DRIVERS = "/sys/class/net"

# Units that set up the network: after them, waiting is short. They are ordered but not required,
# because the stage itself waits, with a timeout.
_SETS_UP = (
    "network.target", "network-online.target", "systemd-networkd.service", "nm-initrd.service",
    "nm-wait-online-initrd.service",
)  # fmt: skip


def of_volume(volume: MountVolume) -> list[str]:
    """The kernel module that a network volume needs in addition to that of its type."""
    if volume.type not in ("nfs", "nfs4"):
        return []
    versions = (fstab.option(volume.options, key) for key in ("vers", "nfsvers"))
    version = next((v for v in versions if v), "4")
    return [f"nfsv{version[0]}"]


def drivers(folder: str = _DRIVERS) -> list[str]:
    """The driver modules of the network interfaces of this machine."""
    found = set()
    for interface in Path(folder).glob("*"):
        module = interface / "device/driver/module"
        if module.exists():
            found.add(os.path.basename(os.path.realpath(module)))
    return sorted(found)


def is_needed(plan: Plan) -> bool:
    """Whether a volume is on the network."""
    return any(volume.type in network.TYPES for volume in plan.volumes())


def is_static(plan: Plan) -> bool:
    """Whether the stage itself sets up the network, by ``[network]``."""
    return any(isinstance(operation, Network) for operation in plan.wipe)


def add_order(tree: Tree) -> None:
    """Order our wipe after the units that set up the network."""
    lines = "".join(f"After={unit}\n" for unit in _SETS_UP)
    tree.write(f"{units.FOLDER}/{units.WIPE}.d/network.conf", f"[Unit]\n{lines}", why="volumes")
