"""Whether what is mounted somewhere is the volume that was declared for it.

A marker written into the wrong place (the ephemeral root itself, because the volume was
not mounted) would be gone at the next boot, and the store with it.
"""

from __future__ import annotations

import os

from ephemeroot.config.model import Volume
from ephemeroot.errors import Refused
from ephemeroot.linux import devices, mountinfo

_CORRECT = "mount the declared volume there, or correct the declaration"


def require(volume: Volume, root: str = "/") -> None:
    """Raise ``Refused`` unless *volume* is the mount at its mount point now, in the machine
    whose root directory is *root*.

    Devices have other names on the machine that builds an image: below another root than ``/`` only
    a btrfs that is declared by its UUID is compared.
    """
    point = volume.mount_point
    if root != "/":
        point = os.path.realpath(root).rstrip("/") + point
    mount = mountinfo.mounted_at(point)
    if mount is None and volume.directory:
        mount = _holder(volume, point)
    if mount is None:
        raise Refused(
            f"the volume {point} is not mounted: cannot write to it",
            f"mount {volume.device} at {point} first",
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
    """The mount that has the directory of *volume* at *point* already, as the root has it where no
    layer is above it; ``None`` if that is another directory.
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
    """Whether *source* is what another machine calls *declared*, as far as can be known here."""
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
            "check that the declaration names this filesystem",
        ) from error
