"""A required device: waits for it if the init has not, and requires a unique name."""

from __future__ import annotations

import os

from ephemeroot.errors import DeviceMissing, Refused
from ephemeroot.linux import devices, duplicates, unopened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

WAITED = "waited"
"""In the run directory: dracut's loop, which may make devices, has waited as long as it may."""


def device(stage: Stage, spec: str, timeout: float, purpose: str) -> str:
    """The path of the block device *spec*, which exists and is the only one of that name.

    *purpose* is for messages (``the device UUID=… of /srv``). Where no unit has waited for
    it, it is waited for here, *timeout* seconds at most (0: without end): those who ask for
    a passphrase (dracut's cryptroot-ask, mkinitcpio's encrypt) have come back before.
    Raises ``DeviceMissing`` if it stays away, ``Refused`` if it cannot be used.
    """
    try:
        path = devices.link(spec)
    except ValueError:
        raise Refused(f"{purpose} is not a device name") from None
    if stage.wait and not os.path.exists(path):
        _wait(stage, path, timeout)
    try:
        devices.number(path)
    except FileNotFoundError:
        from ephemeroot import amounts  # only a failure needs it

        there = amounts.listed(devices.block_devices(), 12) or "none"
        raise DeviceMissing(
            f"{purpose} is missing (block devices found: {there})", unopened.hint()
        ) from None
    except OSError as error:
        raise Refused(f"{purpose} cannot be used: {error.strerror}") from error
    require_single(spec, purpose)
    return path


def require_single(spec: str, purpose: str) -> None:
    """Raise ``Refused`` if several devices have the name *spec*."""
    several = duplicates.of(spec)
    if several:
        from ephemeroot import amounts  # only a failure needs it

        raise Refused(
            f"{purpose} matches several devices: {amounts.listed(several)}",
            "detach the copies, give them another UUID or label (btrfstune -u, tune2fs -U, "
            "xfs_admin -U, sgdisk -G), or name the device by a unique path",
        )


def _wait(stage: Stage, path: str, timeout: float) -> None:
    if os.path.exists(f"{stage.run}/{WAITED}"):
        return
    from ephemeroot.linux import udev

    stage.report.log(f"waiting for {path}")
    try:
        udev.wait_for(path, timeout)
    except (ImportError, OSError) as error:
        stage.report.problem(f"cannot wait for {path}: {error}")
