"""What a live overlay root does not show of the installed root below it: a container's whiteouts
and opaque directories (``ephemeroot.linux.layers``).
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
    """Raise ``Refused`` if the directory *path* of the open overlay root *live* hides a whiteout
    or the mark of an opaque directory that the open installed root *base* has below it.
    """
    todo = [path.strip("/")]
    while todo:
        place = todo.pop()
        try:
            os.close(paths.open_beneath(live, place, _DIRECTORY))
            fd = paths.open_beneath(base, place, _DIRECTORY)
        except OSError:
            continue  # only one of them has it
        try:
            found = _hidden(fd)
            if found is not None:
                raise Refused(
                    f"{path} has a container's storage in the installed root, which this root, an "
                    f"overlay, cannot show correctly: {found} /{place}".rstrip("/"),
                    "declare it in the configuration, then 'ephemeroot apply' and reboot: the boot "
                    "copies it from the installed root and the layer",
                )
            todo += [f"{place}/{name}" for name in _directories(fd)]
        finally:
            os.close(fd)


def _hidden(fd: int) -> str | None:
    """What of the open directory an overlay hides, in words; ``None`` for nothing."""
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
