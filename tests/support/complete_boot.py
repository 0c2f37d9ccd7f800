"""The end of a boot, for a root mounted at any path."""

from __future__ import annotations

import os
from pathlib import Path

from ephemeroot.wipers.contract import Wiper


def mark_boot_complete(wiper: Wiper, root: Path) -> bool:
    """Do the work of ``ephemeroot boot-complete`` for *root*; return whether it is marked."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return wiper.mark_boot_complete(fd)
    finally:
        os.close(fd)
