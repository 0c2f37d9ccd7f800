"""The ZFS backend: a rollback to a snapshot, or clones that take the root's name.

The class is imported when it is asked for: the modules beside it are of use without it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.zfs.wiper import Zfs

__all__ = ("Zfs",)


def __getattr__(name: str) -> object:
    if name == "Zfs":
        from ephemeroot.wipers.zfs.wiper import Zfs

        return Zfs
    raise AttributeError(f"module {__name__} has no attribute {name}")
