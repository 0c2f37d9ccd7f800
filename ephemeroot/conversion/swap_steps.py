"""Swap files that are in the root: where they go before there is a base."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

from ephemeroot.config import swap
from ephemeroot.conversion.commands import Step, append, mounted_top, top
from ephemeroot.conversion.layout import Layout
from ephemeroot.conversion.survey import Survey

_SWAP = "/swap/swapfile"


def into_subvolume(survey: Survey, layout: Layout) -> Iterator[Step]:
    """A swap file in the root would be in the base and in each new root, and could be activated in
    none: its extents are shared.
    """
    for path, size in _swap_files(survey):
        parent, _, name = layout.root.rpartition("/")
        subvolume = (f"{parent}/" if parent else "") + ("@swap" if name.startswith("@") else "swap")
        quoted = shlex.quote(path)
        yield Step(
            f"Swap off the root ({path} is on it), into a subvolume of its own; a partition does "
            "as well:",
            (
                f"! grep -q '^{path} ' /proc/swaps || swapoff {quoted}",
                f"rm {quoted}",
                *mounted_top(layout, f"btrfs subvolume create {top(subvolume)}"),
                "mkdir -p /swap",
                append(f"{layout.device} /swap btrfs subvol={subvolume},noatime 0 0"),
                "mount /swap",
                f"touch {_SWAP}",
                f"chattr +C {_SWAP}",
                f"chmod 600 {_SWAP}",
                f"fallocate -l {size} {_SWAP}",
                f"mkswap {_SWAP}",
                # Its line in fstab, with whatever options it has.
                f"sed -i -E 's|^{re.escape(path)}(\\s)|{_SWAP}\\1|' /etc/fstab",
                f"swapon {_SWAP}",
                *_resume(survey),
            ),
        )
        return  # one line in fstab is enough: a second file is as well one of that subvolume


def off_overlay(survey: Survey) -> Iterator[Step]:
    """No swap file can be activated in an overlay, not even one that the layer below has."""
    for path, _ in _swap_files(survey):
        yield Step(
            f"Swap off the root ({path} is on it), which an overlay does not support:",
            ("# make a partition for swap or a file on a volume, and change its fstab line",),
        )


def _swap_files(survey: Survey) -> Iterator[tuple[str, int]]:
    """Path and size of each swap file on the root itself."""
    root = os.open(survey.machine.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = swap.files(root)
    finally:
        os.close(root)
    for path in found:
        if not survey.is_on_volume(path):
            yield path, os.stat(os.path.join(survey.machine.root, path.lstrip("/"))).st_size


def _resume(survey: Survey) -> list[str]:
    """Hibernation finds a swap file by a number that is another one now."""
    if any("resume_offset=" in text for _, text in survey.machine.command_lines):
        number = f"btrfs inspect-internal map-swapfile -r {_SWAP}"
        return [f"# put resume_offset=$({number}) on the kernel command line"]
    return []
