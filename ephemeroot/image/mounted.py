"""Whether what is mounted somewhere is the volume that was declared for it.

A marker written into the wrong place (the ephemeral root itself, because the volume was
not mounted) would be gone at the next boot, and the store with it.
"""

from __future__ import annotations

from pathlib import Path

from ephemeroot.config.volumes import Volume
from ephemeroot.errors import Refused
from ephemeroot.linux import devices, mountinfo


def require(volume: Volume) -> None:
    """Raise ``Refused`` unless *volume* is what is mounted at its mount point now."""
    mount = mountinfo.mounted_at(volume.mount_point)
    if mount is None:
        raise Refused(
            f"the volume {volume.mount_point} is not mounted: nothing can be written to it",
            f"mount {volume.device} at {volume.mount_point} first",
        )
    if mount.fstype != volume.type and volume.type != "auto":
        raise Refused(
            f"{volume.mount_point} is mounted as {mount.fstype}, declared is {volume.type}"
        )
    if not _is_same_device(mount.source, volume.device):
        raise Refused(
            f"{mount.source} is mounted at {volume.mount_point}, declared is {volume.device}",
            "mount the declared one there, or correct the declaration",
        )
    if volume.subvolume and mount.root.strip("/") != volume.subvolume:
        raise Refused(
            f"the subvolume {mount.root} is mounted at {volume.mount_point}, "
            f"declared is {volume.subvolume}",
            "mount the declared one there, or correct the declaration",
        )


def _is_same_device(source: str, declared: str) -> bool:
    try:
        path = devices.link(declared)
    except ValueError:
        return source == declared  # a dataset, a share
    if not source.startswith("/"):
        return source == declared
    try:
        if devices.number(source) == devices.number(path):
            return True
        # Another device of one btrfs is as good.
        uuid = devices.btrfs_uuid(source)
        return uuid is not None and uuid == devices.btrfs_uuid(path)
    except OSError as error:
        raise Refused(
            f"the declared device {declared} cannot be used: {error.strerror}",
            f"is it the one that {Path(path).name} stands for?",
        ) from error
