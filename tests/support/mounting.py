"""mount(8) and umount(8), for the tests and for the guests of virtual machines."""

from __future__ import annotations

import subprocess
from pathlib import Path


def mount(device: str, where: Path, *words: str) -> None:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, device, where], check=True)


def unmount(where: Path) -> None:
    """Unmount everything at and below that path; do nothing if it is not a mount point."""
    subprocess.run(["umount", "-R", where], check=False, capture_output=True)
