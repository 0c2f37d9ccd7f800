"""Filesystems of the root and the stores that are nearly full, and their largest users."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ephemeroot import amounts
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo
from ephemeroot.linux.mountinfo import Mount
from ephemeroot.old_roots import histories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.status.disk_holders import Holder

PART, BYTES = 20, 5 << 30
"""A filesystem is nearly full if less than a twentieth of it is free, and less than 5 GiB."""

_MOST = 3  # holders in the message


@dataclass(slots=True)
class Full:
    """A filesystem that is nearly full, with the ``paths`` on it that this program uses. ``size``
    and ``free`` are in bytes; ``holders`` are its largest users, the largest first.
    """

    paths: list[str]
    size: int
    free: int
    holders: list[Holder] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The warning as one line."""
        where = " and ".join(self.paths)
        line = (
            f"the filesystem of {where} is nearly full: {amounts.size(self.free)} of "
            f"{amounts.size(self.size)} are free"
        )
        held = ", ".join(one.describe() for one in self.holders)
        return f"{line}; largest: {held}" if held else line


def look(root: str, plan: Plan) -> list[Full]:
    """The nearly full filesystems among those that *plan* wipes and those of its stores.

    Without root's privileges they have no holders.
    """
    mounts = mountinfo.mounts()
    found: dict[str, Full] = {}
    for path in ["/", *(wipe.target for wipe in plan.wipes()), *(s.path for s in plan.stores())]:
        mount, space = _mount(root, path, mounts), _space(root, path)
        if mount is None or space is None:
            continue
        size, free = space
        if not size or free * PART >= size or free >= BYTES:
            continue
        full = found.setdefault(mount.major_minor, Full([], size, free))
        if path not in full.paths:
            full.paths.append(path)
    if found and os.geteuid() == 0:
        from ephemeroot.status import disk_holders  # imported only if a disk is full

        for holder, where in disk_holders.look(root, plan):
            mount = _mount(root, where, mounts)
            if mount is not None and mount.major_minor in found:
                found[mount.major_minor].holders.append(holder)
    for full in found.values():
        full.holders = sorted(full.holders, key=lambda one: -one.size)[:_MOST]
    return list(found.values())


def _mount(root: str, path: str, mounts: list[Mount]) -> Mount | None:
    return mountinfo.covering(os.path.realpath(histories.below(root, path)), mounts)


def _space(root: str, path: str) -> tuple[int, int] | None:
    try:
        space = os.statvfs(histories.below(root, path))
    except OSError:
        return None
    return space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
