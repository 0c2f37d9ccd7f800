"""Kernel modules that the plan needs in an image, and optional ones."""

from __future__ import annotations

from collections.abc import Iterable

from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import nics
from ephemeroot.wipers.contract import Needs

_OF_FILESYSTEM = {
    "ext2": ("ext4",),
    "ext3": ("ext4",),
    "auto": (),
    "nfs4": ("nfs",),
    "smb3": ("cifs",),
    "9p": ("9p", "9pnet_virtio"),
}
# Code pages: which one a mount needs depends on how the kernel was built.
_OPTIONAL = {
    "vfat": ("nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"),
    "cifs": nics.CIPHERS,
    "smb3": nics.CIPHERS,
}


def needed(plan: Plan, volumes: Iterable[MountVolume], needs: Iterable[Needs]) -> list[str]:
    """Modules without which the stages fail, unless built in. The image is verified for them."""
    names = {name for need in needs for name in need.kernel_modules}
    if any(isinstance(operation, Overlay) for operation in plan.persist):
        names.add("overlay")
    for volume in volumes:
        names.update(_OF_FILESYSTEM.get(volume.type, (volume.type,)))
        names.update(nics.of_volume(volume))
    return sorted(names)


def optional(volumes: Iterable[MountVolume]) -> set[str]:
    """Modules that are added if the kernel has them."""
    return {name for volume in volumes for name in _OPTIONAL.get(volume.type, ())}
