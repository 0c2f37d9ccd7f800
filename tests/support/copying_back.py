"""Copying back, as the running system does it, from the new root of a `boot.Boot`."""

from __future__ import annotations

import json
import os

from boot import Boot
from ephemeroot.hooks.store.copyback import CopyBack, Recorded


def copy_back(boot: Boot, patience: float = 0.2) -> CopyBack:
    """Copy back as the running system does, with the new root instead of ``/``."""
    recorded = json.loads((boot.run / "copies").read_text())
    problems: list[str] = []
    known = Recorded(recorded["files"], recorded["stores"], recorded["limit"])
    stores = known.open_stores(str(boot.target), problems)
    root = os.open(boot.target, os.O_RDONLY)
    try:
        back = CopyBack(known.files, stores, root, known.limit)
        back.run(patience)
    finally:
        for fd in (root, *stores.values()):
            os.close(fd)
    back.problems += problems
    return back
