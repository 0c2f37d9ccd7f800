"""Overlay mounts: what an overlay root is put together of."""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mountinfo, mounts, shell
from ephemeroot.wipers import placement
from ephemeroot.wipers.overlay import uppers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ephemeroot.wipers.contract import Boot
    from ephemeroot.wipers.placement import Places

# With other options, the upper layer would be bound to this state of the lower one, and a
# changed lower root would fail with ESTALE (Documentation/filesystems/overlayfs.rst).
OPTIONS = ["index=off", "metacopy=off", "redirect_dir=off"]


def neither(flags: Iterable[str]) -> list[str]:
    """Mount options without those that say whether the mount is writable."""
    return [flag for flag in flags if flag not in ("rw", "ro")]


def installed(fstype: str, device: str, flags: Iterable[str]) -> int:
    """A detached read-only mount of the installed root. Raises ``EphemerootError``."""
    try:
        return _installed(fstype, device, neither(flags))
    except OSError as error:
        raise EphemerootError(
            f"cannot mount the installed root {device} as {fstype}: {error.strerror}",
            f"'blkid {shell.quoted(device)}' shows its type, for type in [root.overlay]; "
            "rootflags= has its mount options",
        ) from error


def _installed(fstype: str, device: str, kept: list[str]) -> int:
    try:
        return mounts.create(fstype, device, [*kept, "ro"])
    except OSError as error:
        # Mounted already, and writable: a directory of it is a volume, or the root has no layer
        # above it. The kernel gives the same filesystem again, and only as it is.
        if error.errno != errno.EBUSY:
            raise
    mount = mounts.create(fstype, device, kept)
    mounts.set_flags(mount, set_=mounts.MOUNT_ATTR_RDONLY, name=device)
    return mount


def require_apart(below: str, layers: str, volume: str) -> None:
    """Raise ``Refused`` if the mounts *below*, of the installed root, and *layers* are of one
    filesystem and one contains the other. *volume* is what messages call that of the layers.

    No layer inside of the root below it can be mounted above it as an old one (ELOOP,
    ovl_check_layer in fs/overlayfs/super.c), and where all of the root is, it can be written to.
    """
    root, above = (mountinfo.mounted_at(os.path.realpath(path)) for path in (below, layers))
    if root is None or above is None or root.major_minor != above.major_minor:
        return
    pair = [f"{mount.root.rstrip('/')}/" for mount in (root, above)]
    if pair[0].startswith(pair[1]) or pair[1].startswith(pair[0]):
        raise Refused(
            f"the volume {volume} for the layers is on the root's own filesystem, which is below "
            "them",
            "name a volume on another filesystem, or leave volume out for layers in memory; "
            "run 'ephemeroot check'",
        )


def mount(options: list[str]) -> int:
    """A detached overlay with these options. Raises ``EphemerootError``."""
    try:
        return mounts.create("overlay", "overlay", options)
    except OSError as error:
        raise EphemerootError(
            f"the overlay cannot be mounted: {error.strerror}",
            "put the layers on a filesystem that supports overlays (not NFS, vfat or another "
            "overlay)",
        ) from error


def mount_root(boot: Boot, places: Places, below: str, above: str) -> dict[str, str]:
    """Mount the fresh root at its place, the layer in *above* over *below*; returns what it is
    known by.
    """
    options = [
        *OPTIONS,
        f"lowerdir={below}",
        f"upperdir={above}/{uppers.UPPER}",
        f"workdir={above}/{uppers.WORK}",
    ]
    path = places.attach(mount(options), "fresh")
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise EphemerootError(
            "the overlay can only be mounted read-only",
            "look for the reason in the kernel log ('dmesg')",
        )
    placement.put_in_place(path, boot.mount_point)
    return {"device": str(os.stat(path).st_dev)}
