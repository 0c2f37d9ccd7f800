"""Whiteouts and opaque directories of containers in the installed root, which a live overlay root
does not show (``ephemeroot.linux.layers``).
"""

from __future__ import annotations

import os

from ephemeroot.errors import Refused
from ephemeroot.linux import mountinfo, paths
from ephemeroot.linux.layers import OPAQUE, is_whiteout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def is_overlay(root: str) -> bool:
    """Whether the live root at *root* is an overlay."""
    mount = mountinfo.mounted_at(os.path.realpath(root))
    return mount is not None and mount.fstype == "overlay"


def require_none(path: str, live: int, base: int) -> None:
    """Raise ``Refused`` if the installed root *base* has a whiteout or an opaque directory below
    *path*, which the overlay root *live* hides. Both roots are open directories.
    """
    todo = [path.strip("/")]
    while todo:
        place = todo.pop()
        try:
            os.close(paths.open_beneath(live, place, _DIRECTORY))
            fd = paths.open_beneath(base, place, _DIRECTORY)
        except OSError:
            continue  # only one of the two roots has it
        try:
            found = _hidden(fd)
            if found is not None:
                raise Refused(
                    f"cannot adopt {path}: this overlay root hides a part of the container storage "
                    f"in the installed root: {found} /{place}".rstrip("/"),
                    "declare the path in the configuration, run 'ephemeroot apply' and reboot: the "
                    "boot copies it from the installed root and the layer",
                )
            todo += [f"{place}/{name}" for name in _directories(fd)]
        finally:
            os.close(fd)


def _hidden(fd: int) -> str | None:
    """What an overlay hides in the open directory, in words; ``None`` if it hides nothing."""
    try:
        if os.getxattr(fd, OPAQUE) == b"y":
            return "the opaque directory"
    except OSError:
        pass
    with paths.entries(fd) as found:
        for entry in found:
            if is_whiteout(entry.stat(follow_symlinks=False)):
                return f"the whiteout {entry.name} in"
    return None


def _directories(fd: int) -> list[str]:
    with paths.entries(fd) as found:
        return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
