"""Whether the mount at a mount point is the volume that is declared for it.

If the volume is not mounted, a marker would be written to the ephemeral root and lost at the next
boot, and the store with it.
"""

from __future__ import annotations

import os

from ephemeroot.config.model import Volume
from ephemeroot.errors import Refused
from ephemeroot.linux import devices, mountinfo

_CORRECT = "mount the declared volume there, or correct the declaration"


def require(volume: Volume, root: str = "/") -> None:
    """Raise ``Refused`` unless *volume* is mounted at its mount point in the machine whose root
    directory is *root*.

    A machine that builds an image has other device names: under a root other than ``/``, only a
    btrfs that is declared by its UUID is compared.
    """
    point = volume.mount_point
    if root != "/":
        point = os.path.realpath(root).rstrip("/") + point
    mount = mountinfo.mounted_at(point)
    if mount is None and volume.directory:
        mount = _holder(volume, point)
    if mount is None:
        raise Refused(
            f"cannot write to the volume {point}: not mounted",
            f"mount {volume.device} at {point}, then run the command again",
        )
    if mount.fstype != volume.type and volume.type != "auto":
        raise Refused(
            f"{point} is mounted as {mount.fstype}, but {volume.type} is declared", _CORRECT
        )
    same = _is_same_device if root == "/" else _may_be_same_device
    if not same(mount.source, volume.device):
        raise Refused(
            f"{mount.source} is mounted at {point}, but {volume.device} is declared", _CORRECT
        )
    wanted = volume.inside(volume.mount_point)
    if wanted and mount.point == point and mount.root.strip("/") != wanted:
        kind = "directory" if volume.directory else "subvolume"
        raise Refused(
            f"the {kind} {mount.root} is mounted at {point}, but {wanted} is declared", _CORRECT
        )


def _holder(volume: Volume, point: str) -> mountinfo.Mount | None:
    """The mount that contains the directory of *volume* at *point*, as in a boot of the installed
    root without a layer; ``None`` if the directory is another one.
    """
    real = os.path.realpath(point)
    if not os.path.isdir(real):
        return None
    mount = mountinfo.covering(real, mountinfo.mounts())
    if mount is None:
        return None
    inside = f"{mount.root.rstrip('/')}/{real[len(mount.point.rstrip('/')) :].strip('/')}"
    return mount if inside.strip("/") == volume.inside(volume.mount_point) else None


def _may_be_same_device(source: str, declared: str) -> bool:
    """Whether *source* may be the device that another machine calls *declared*."""
    tag, _, value = declared.partition("=")
    if tag != "UUID" or not source.startswith("/"):
        return True
    try:
        uuid = devices.btrfs_uuid(source)
    except OSError:
        return True
    return uuid is None or uuid == value.strip('"').lower()


def _is_same_device(source: str, declared: str) -> bool:
    try:
        path = devices.link(declared)
    except ValueError:
        return source == declared  # a dataset or a network share
    if not source.startswith("/"):
        return source == declared
    try:
        if devices.number(source) == devices.number(path):
            return True
        # Any device of a btrfs stands for the filesystem.
        uuid = devices.btrfs_uuid(source)
        return uuid is not None and uuid == devices.btrfs_uuid(path)
    except OSError as error:
        raise Refused(
            f"cannot open the declared device {declared}: {error.strerror}",
            "check that the declaration names this filesystem",
        ) from error
