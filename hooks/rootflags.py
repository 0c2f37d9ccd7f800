"""Options of ``rootflags=`` that every mount of the root's filesystem needs.

A filesystem of several devices that lacks one is mounted with ``degraded``, or not at all: the
store on the same filesystem, too. The administrator adds that word for the root alone.
"""

from __future__ import annotations

import os

from ephemeroot.hooks import ownership
from ephemeroot.linux import devices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


def shared(stage: Stage, source: str) -> list[str]:
    """The options that a mount of the device *source* needs because the root's mount has them;
    none if the root is on another filesystem.
    """
    options = devices.btrfs_wide(stage.cmdline.root_flags())
    asked = ownership.booted_device(stage.cmdline)
    if not options or asked is None:
        return []
    try:
        root = devices.btrfs_uuid(os.path.realpath(devices.link(asked)))
        return options if root is not None and root == devices.btrfs_uuid(source) else []
    except (OSError, ValueError):
        return []
