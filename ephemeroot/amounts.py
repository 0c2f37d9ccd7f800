"""Amounts of data as people read them."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int) -> str:
    """So many bytes as people read them: ``812 B``, ``1.4 KiB``, ``3.0 GiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    unit = 0
    while value >= 1023.95 and unit < len(_UNITS):
        value /= 1024
        unit += 1
    return f"{value:.1f} {_UNITS[unit - 1]}"
