"""The whole table in `make proof`, a sample of it everywhere else.

`make proof` sets `EPHEMEROOT_PROOF=1` and may take hours. The sample is the same in each run: a
test that fails in CI fails again on a developer's machine.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

_Case = TypeVar("_Case")
_Other = TypeVar("_Other")


def is_whole() -> bool:
    """Whether this run tests each promise completely."""
    return os.environ.get("EPHEMEROOT_PROOF", "0") not in ("", "0")


def sample(table: Sequence[_Case], size: int, *, seed: int = 0) -> list[_Case]:
    """All of *table* in `make proof`, otherwise *size* of its cases in the table's order.

    *seed* selects another sample.
    """
    if is_whole() or len(table) <= size:
        return list(table)
    chosen = sorted(random.Random(seed).sample(range(len(table)), size))
    return [table[index] for index in chosen]


def pairs(
    first: Sequence[_Case], second: Sequence[_Other], times: int = 1
) -> list[tuple[_Case, _Other]]:
    """Every pair in `make proof`, otherwise enough pairs that each of *first* and of *second* is in
    at least *times* of them.
    """
    if is_whole():
        return [(one, other) for one in first for other in second]
    size = max(len(first), len(second))
    return [
        (first[index % len(first)], second[(index + turn) % len(second)])
        for turn in range(times)
        for index in range(size)
    ]


def stride(sample: int, whole: int = 1) -> int:
    """The distance between tried steps: *whole* in `make proof`."""
    return whole if is_whole() else sample


def rounds(sample: int, whole: int) -> int:
    """The number of repetitions of a random test: *whole* in `make proof`."""
    return whole if is_whole() else sample


def record(promise: str, cases: int) -> None:
    """Add *cases*, which have passed, to the figures of *promise* (docs/reliability.md).

    The figures are in the file $EPHEMEROOT_FIGURES: each line has a number, a tab and the promise.
    Without the variable nothing is recorded.
    """
    if name := os.environ.get("EPHEMEROOT_FIGURES"):
        with open(name, "a", encoding="utf-8") as file:
            file.write(f"{cases}\t{promise}\n")
