"""How much data only one old root holds, for the verbs that show it."""

from __future__ import annotations

import time

from ephemeroot.errors import EphemerootError
from ephemeroot.wipers.history import History
from ephemeroot.wipers.oldroot import FOREIGN, OldRoot


def measure(history: History, entry: OldRoot, deadline: float) -> int | None:
    """Bytes that only *entry* holds; ``None`` if it is foreign, or if measuring does not end by
    *deadline* (``time.monotonic()``).
    """
    if entry.kind == FOREIGN or time.monotonic() > deadline:
        return None
    try:
        return history.measure(entry, deadline)
    except (EphemerootError, OSError):
        return None
