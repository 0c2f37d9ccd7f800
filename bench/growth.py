"""The space of old roots over the days, and the cost of a wipe in their presence.

A machine boots once a day and writes the same number of new bytes to its root each day. *Space* is
measured with a root that is never wiped, and with old roots that are kept for 7 and for 30 days.
*Wipe* is measured with a growing number of old roots, none of which is due: processor time of the
wiper alone, without the start of the interpreter and the proofs of a stage. The clock is the
benchmark's own, the filesystem is a real btrfs on a loop device. Needs root; takes some minutes.
`--json FILE` writes the figures for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from btrfs_image import DAY, NOON, Disk, Site, fresh_disk
from measuring import load

DAYS = 60
MEGABYTES_A_DAY = 8
MEGABYTE = 1 << 20
KEEP_DAYS = (None, 30, 7)
"""How long old roots are kept; with ``None`` the root is never wiped."""

OLD_ROOTS = 300
ROUNDS = 10
"""One median is taken from so many consecutive wipes."""


@dataclass
class Growth:
    """The content of docs/growth.json."""

    megabytes_a_day: int = MEGABYTES_A_DAY
    space: list[dict[str, object]] = field(default_factory=list)
    wipe: list[list[float]] = field(default_factory=list)


def used(disk: Disk) -> int:
    """Bytes in use on the filesystem after the kernel has removed all deleted subvolumes."""
    disk.sync()
    subprocess.run(["btrfs", "subvolume", "sync", disk.top], check=True, capture_output=True)
    disk.sync()
    space = os.statvfs(disk.top)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def machine(disk: Disk, keep_days: int) -> Site:
    """A base, and a root that is a copy of it."""
    site = Site(disk, "machine")
    site.path.mkdir()
    site.with_base().with_root()
    site.settings |= {"keep-days": keep_days, "keep-last": 3}
    return site


def space(folder: Path, keep_days: int | None) -> dict[str, object]:
    """Megabytes in use at the end of each day."""
    with fresh_disk(folder, 4 * DAYS * MEGABYTES_A_DAY) as disk:
        site = machine(disk, keep_days or 0)
        before = used(disk)
        grown = []
        for day in range(DAYS):
            if keep_days is not None:
                site.boots([NOON + day * DAY], synchronised=True)
            (site.root / f"log-{day}").write_bytes(os.urandom(MEGABYTES_A_DAY * MEGABYTE))
            grown.append(round((used(disk) - before) / MEGABYTE, 1))
        return {"keep_days": keep_days, "old_roots": len(site.old()), "megabytes": grown}


def wipe(folder: Path) -> list[list[float]]:
    """The milliseconds of a wipe for each number of kept old roots."""
    found = []
    with fresh_disk(folder, 1024) as disk:
        site = machine(disk, 2 * OLD_ROOTS)
        taken = []
        for day in range(OLD_ROOTS):
            started = time.process_time()
            site.rotate(NOON + day * DAY, synchronised=True)
            taken.append(1e3 * (time.process_time() - started))
            site.live()
            if len(taken) == ROUNDS:
                found.append([len(site.old()), round(statistics.median(taken), 2)])
                taken.clear()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/growth.py needs root: it makes and mounts filesystems")
    result = Growth()
    with tempfile.TemporaryDirectory(prefix="ephemeroot-bench-") as name:
        for keep_days in KEEP_DAYS:
            folder = Path(name) / str(keep_days)
            folder.mkdir()
            result.space.append(space(folder, keep_days))
            print(f"keep-days {keep_days}: {result.space[-1]['megabytes']} MiB")
        print(load())
        folder = Path(name) / "wipe"
        folder.mkdir()
        result.wipe = wipe(folder)
        for old_roots, milliseconds in result.wipe:
            print(f"{old_roots:.0f} old roots: {milliseconds:.1f} ms of the processor")
    if arguments.json:
        arguments.json.write_text(json.dumps(vars(result)) + "\n")


if __name__ == "__main__":
    main()
