"""Where the time of a run goes: building, booting, the stages, waiting, commands.

Every second is counted once, in the innermost kind that it was spent for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

BUILDING = "building"
"""Making trees, packages, images and disks that the cache lacked."""
BOOTING = "booting"
"""From the start of QEMU to the machine's first word, without the stages."""
STAGES = "stages"
"""What the stages' own report says that they took."""
COMMANDS = "commands"
"""What tests ran in machines."""
WAITING = "waiting"
"""For the end of a boot or of a machine, for another run's machine, for what another run builds."""

KINDS = (BUILDING, BOOTING, STAGES, COMMANDS, WAITING)


class Times:
    """Seconds by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._open: list[float] = []

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Count what runs within as *kind*, without what an inner one counts."""
        begun = time.monotonic()
        self._open.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - begun
            inner = self._open.pop()
            self.seconds[kind] += whole - inner
            if self._open:
                self._open[-1] += whole

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count *seconds* that were counted as *source* as *target*."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def add(self, others: Mapping[str, float]) -> None:
        """Add what another process has spent."""
        for kind, seconds in others.items():
            self.seconds[kind] += seconds

    def record(self) -> None:
        """Append them to `$EPHEMEROOT_MINUTES`, which `tools/minutes` prints; if it is set."""
        path = os.environ.get("EPHEMEROOT_MINUTES")
        if path:
            with open(path, "a", encoding="utf-8") as record:
                record.writelines(f"{s:.0f}\t  {kind}\n" for kind, s in self.seconds.items())


times = Times()
"""This process's."""
