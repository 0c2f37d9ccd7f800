"""Steps for the administrator, and the commands that several of them have in common."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ephemeroot.config.fstab import FstabLine
from ephemeroot.conversion.layout import Layout

TOP = "/mnt"
"""Where the commands mount the top level of the root's filesystem."""


@dataclass(frozen=True, slots=True)
class Step:
    """``commands`` are for a shell of root's, one a line; a few only say what to edit (``#``)."""

    title: str
    commands: tuple[str, ...]


def mounted_top(layout: Layout, *commands: str) -> tuple[str, ...]:
    """*commands* with the top level of the root's filesystem at ``TOP``."""
    return (f"mount -t btrfs -o subvolid=5 {layout.device} {TOP}", *commands, f"umount {TOP}")


def top(path: str) -> str:
    """The path of the subvolume *path* there, quoted."""
    return shlex.quote(f"{TOP}/{path}")


def replaced(line: FstabLine, text: str, root: str = "") -> str:
    """Put *text* in the place of *line* of /etc/fstab below *root*."""
    return f"sed -i '{line.number}c\\{text}' {shlex.quote(f'{root}/etc/fstab')}"


def append(line: str) -> str:
    """Add *line* to /etc/fstab."""
    return f"echo {shlex.quote(line)} >> /etc/fstab"
