"""Overlays over the root's own directories, which are missing when the machine has just booted
the base: system and configuration extensions (systemd-sysext(8)), and overlays mounted by hand.

What a command writes while one is merged arrives in the extension's layer, or nowhere.
"""

from __future__ import annotations

import os

from ephemeroot.linux import paths
from ephemeroot.linux.mountinfo import Mount

_SOURCES = ("sysext", "confext")  # what systemd-sysext names as the source of its mounts
_MARKERS = (".systemd-sysext", ".systemd-confext")
# How an overlay that a declared path gets at boot names its layers (linux.mounts).
_BY_DESCRIPTOR = "lowerdir=/proc/self/fd/"


def is_one(mount: Mount, base: int, declared: set[str]) -> bool:
    """Whether *mount* is an overlay over something that the open *base* has, and neither one of
    the *declared* mount points nor a declared path: each boot makes those again.
    """
    if mount.fstype != "overlay" or mount.point == "/":
        return False
    if mount.source in _SOURCES:
        return True
    if any(os.path.lexists(f"{mount.point}/{marker}") for marker in _MARKERS):
        return True
    if mount.point in declared:
        return False
    if any(option.startswith(_BY_DESCRIPTOR) for option in mount.super_options):
        return False
    return _has_content(base, mount.point)


def _has_content(base: int, path: str) -> bool:
    try:
        fd = paths.open_in_root(base, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return bool(paths.names(fd))
    finally:
        os.close(fd)
