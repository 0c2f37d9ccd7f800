"""Wipers that leave a full run directory (/run)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.contract import Boot, Outcome


class Filling(Btrfs):
    """A wiper during whose wipe another process fills /run."""

    __slots__ = ()

    def wipe(self, boot: Boot) -> Outcome:
        outcome = super().wipe(boot)
        fill(Path(boot.private).parent)
        return outcome


class Freezing(Btrfs):
    """A wiper after whose wipe no name in the run directory can be changed."""

    __slots__ = ()

    def wipe(self, boot: Boot) -> Outcome:
        outcome = super().wipe(boot)
        run = Path(boot.private).parent
        subprocess.run(["chattr", "+i", run], check=True)
        return outcome


def fill(run: Path) -> None:
    """Fill the space first, then use every inode."""
    with (run / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(1 << 16))
        except OSError:
            pass
    number = 0
    try:
        while True:
            (run / f"file{number}").touch()
            number += 1
    except OSError:
        pass
