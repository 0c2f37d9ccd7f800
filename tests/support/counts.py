"""Counts of work that do not depend on the machine, compared with those in ``counts.json``.

A count may fall but not rise. With ``EPHEMEROOT_LOWER_COUNTS=1`` in the environment, the tests that
call this record lower counts, and counts that are not in the file yet (``pytest -n 0``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

FILE = Path(__file__).with_name("counts.json")


def require_at_most_recorded(name: str, count: int, tolerance: float = 0) -> None:
    """Fail if *count* exceeds the count recorded under *name* by more than that tolerance: other
    versions of the interpreter make other byte code.
    """
    recorded: dict[str, int] = json.loads(FILE.read_text())
    if os.environ.get("EPHEMEROOT_LOWER_COUNTS") == "1":
        lowered = {**recorded, name: min(count, recorded.get(name, count))}
        FILE.write_text(json.dumps(lowered, indent=2, sort_keys=True) + "\n")
        return
    most = recorded[name] * (1 + tolerance)
    assert count <= most, f"{name}: {count}, and {recorded[name]} are recorded"


def calls(function: Callable[[], object]) -> int:
    """The number of function calls meanwhile, both Python and C."""
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counted
