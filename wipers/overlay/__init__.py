"""The overlay backend: a new layer over the installed root at each boot.

The class is imported when it is asked for: the modules beside it are of use without it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.overlay.wiper import Overlay

__all__ = ("Overlay",)


def __getattr__(name: str) -> object:
    if name == "Overlay":
        from ephemeroot.wipers.overlay.wiper import Overlay

        return Overlay
    raise AttributeError(f"module {__name__} has no attribute {name}")
