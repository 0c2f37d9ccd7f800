"""The btrfs backend: subvolumes that are exchanged, and a directory of retired ones.

The class is imported when it is asked for: the modules beside it are of use without it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.btrfs.wiper import Btrfs

__all__ = ("Btrfs",)


def __getattr__(name: str) -> object:
    if name == "Btrfs":
        from ephemeroot.wipers.btrfs.wiper import Btrfs

        return Btrfs
    raise AttributeError(f"module {__name__} has no attribute {name}")
