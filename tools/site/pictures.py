"""The drawings in docs/, made from the tables below."""

from __future__ import annotations

from pathlib import Path


def write(target: Path) -> None:
    """Write all drawings into the directory *target*."""
