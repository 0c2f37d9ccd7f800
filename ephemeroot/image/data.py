"""The data files of this program: units, modules of the generators, ``boot``."""

from __future__ import annotations

from pathlib import Path

import ephemeroot


def folder(name: str) -> Path:
    """The installed folder *name* (``systemd``, ``dracut``) of this program."""
    return Path(ephemeroot.__path__[0]) / name


def unit(name: str) -> str:
    """The unit file *name*."""
    return (folder("systemd") / name).read_text(encoding="utf-8")


def boot() -> Path:
    """The script that runs the stages in the initramfs."""
    return Path(__file__).parent / "boot.sh"
