"""Measuring whole processes: elapsed time and processor time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """Seconds of a process and its children: elapsed, and on a processor."""

    clock: float
    processor: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.clock + other.clock, self.processor + other.processor)


def process(
    command: Sequence[str | Path],
    *,
    root: Path | None = None,
    accept: Sequence[int] = (0,),
    environment: dict[str, str] | None = None,
) -> Taken:
    """Run *command*, in *root* if given, and discard its output.

    Raises ``RuntimeError`` unless it ends with one of the statuses *accept*.
    """
    words = [os.fspath(word) for word in command]
    nothing = os.open("/dev/null", os.O_RDWR)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            if root is not None:
                os.chroot(root)
                os.chdir("/")
            os.execvpe(words[0], words, environment or dict(os.environ))
        finally:
            os._exit(126)
    _, status, used = os.wait4(child, 0)
    taken = Taken(time.perf_counter() - started, used.ru_utime + used.ru_stime)
    os.close(nothing)
    if os.waitstatus_to_exitcode(status) not in accept:
        raise RuntimeError(f"{' '.join(words)}: {os.waitstatus_to_exitcode(status)}")
    return taken


def interleaved(rounds: int, kinds: dict[str, Callable[[], Taken]]) -> dict[str, Taken]:
    """The median of so many *rounds* of each of *kinds*, which alternate."""
    found: dict[str, list[Taken]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, run in kinds.items():
            found[name].append(run())
    return {
        name: Taken(
            statistics.median(one.clock for one in taken),
            statistics.median(one.processor for one in taken),
        )
        for name, taken in found.items()
    }


def load() -> str:
    """How busy the machine is, for the head of a table."""
    return f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors"
