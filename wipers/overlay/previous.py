"""Which root did the boot before use? Its layer, an earlier one's, or the installed root.

The clock does not tell, and neither does the newest layer: with ``ephemeroot.wipe=no`` the
installed root boots, and in between layers may be in memory. The boots themselves have recorded it
(``Boot.booted``); without that record it is the newest layer of which a boot was complete.
"""

from __future__ import annotations

from ephemeroot.linux import devices, values
from ephemeroot.wipers import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ephemeroot.wipers.oldroot import OldRoot
    from ephemeroot.wipers.overlay.history import UpperHistory
    from ephemeroot.wipers.overlay.uppers import Uppers

    Boots = Iterable[dict[str, dict[str, str]]]

LAYER = "layer"
INSTALLED = "installed"
NONE = "none"


class Previous:
    """``kind`` is ``LAYER`` (of *entry* in the history, of the present one if that is ``None``),
    ``INSTALLED``, or ``NONE``: there was none before, or it was in memory.
    """

    __slots__ = ("entry", "kind")

    def __init__(self, kind: str, entry: OldRoot | None = None) -> None:
        self.kind = kind
        self.entry = entry


def find(booted: Boots, device: str, layers: Uppers, history: UpperHistory) -> Previous:
    """The root that the boot before used, of everything that can be seeded from: the installed root
    on
    *device*, or a layer over it. One of which no boot was complete is passed over.
    """
    known = _complete(layers, history)
    for boot in booted:
        if "kept" in boot:
            return Previous(INSTALLED if is_installed(boot["kept"], device) else NONE)
        identity = boot["fresh"].get(LAYER)
        if identity is None:
            return Previous(NONE)
        if identity in known:
            # A layer above that could not be recorded.
            newest = max(known, key=_serial)
            wanted = newest if _serial(newest) > _serial(identity) else identity
            return Previous(LAYER, known[wanted])
    if not known:
        return Previous(NONE)
    return Previous(LAYER, known[max(known, key=_serial)])


def is_installed(root: dict[str, str], device: str) -> bool:
    """Whether *root* (``Wiper.identify_mounted``) is on the filesystem of *device*."""
    return root.get("filesystem") in (None, devices.filesystem_uuid(devices.named(device)))


def _serial(identity: str) -> int:
    return values.number(identity.partition(" ")[0]) or 0


def _complete(layers: Uppers, history: UpperHistory) -> dict[str, OldRoot | None]:
    """The layers over this root of which a boot was complete, by their identity."""
    found: dict[str, OldRoot | None] = {}
    for entry in history.retired():
        layer = history.layer(entry)
        if layer.state == marks.BOOT_COMPLETE:
            found[layer.identity] = entry
    present = layers.present()
    if present is not None and present.state == marks.BOOT_COMPLETE:
        found[present.identity] = None
    return found
