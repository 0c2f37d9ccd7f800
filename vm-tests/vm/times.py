"""The time of a run by activity: building, booting, the stages, waiting, commands.

Every second is counted once, for the innermost activity.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

BUILDING = "building"
"""Making trees, packages, images and disks that the cache lacked."""
BOOTING = "booting"
"""From the start of QEMU to the machine's first answer, without the stages."""
STAGES = "stages"
"""The time of the stages in their own report."""
COMMANDS = "commands"
"""The commands of tests in machines."""
WAITING = "waiting"
"""Waiting for the end of a boot or of a machine, for another run's machine, or for another run's
builds.
"""

KINDS = (BUILDING, BOOTING, STAGES, COMMANDS, WAITING)


class Times:
    """Seconds by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._open: list[float] = []

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Count the time of the `with` as *kind*, without the time of an inner one."""
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
        """Count *seconds* as *target* instead of *source*."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def add(self, others: Mapping[str, float]) -> None:
        """Add the time of another process."""
        for kind, seconds in others.items():
            self.seconds[kind] += seconds

    def record(self) -> None:
        """Append the times to `$EPHEMEROOT_MINUTES`, if set, which `tools/minutes` prints."""
        path = os.environ.get("EPHEMEROOT_MINUTES")
        if path:
            with open(path, "a", encoding="utf-8") as record:
                record.writelines(f"{s:.0f}\t  {kind}\n" for kind, s in self.seconds.items())


times = Times()
"""Those of this process."""
