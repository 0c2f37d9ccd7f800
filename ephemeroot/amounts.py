"""Sizes with units, and lists that are cut with "and N more"."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int) -> str:
    """*count* bytes with a unit: ``812 B``, ``1.4 KiB``, ``3.0 GiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    unit = 0
    while value >= 1023.95 and unit < len(_UNITS):
        value /= 1024
        unit += 1
    return f"{value:.1f} {_UNITS[unit - 1]}"


def listed(names: Sequence[str], most: int = 5, *, separator: str = ", ") -> str:
    """The first *most* names and the number of the others: ``a, b and 7 more``."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{separator.join(names[:most])}{more}"
