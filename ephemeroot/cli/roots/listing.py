"""The output of ``ephemeroot roots list`` for one history."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ephemeroot import amounts, terminal
from ephemeroot.old_roots import history_size
from ephemeroot.wipers.history import History
from ephemeroot.wipers.oldroot import FOREIGN, RECIPE, RETIRED, OldRoot
from ephemeroot.wipers.pruning import Pruning

MEASURING = 10
"""The time limit in seconds for the sizes; old roots that are not measured by then have none."""


def entries(history: History, pruning: Pruning, deadline: float) -> list[dict[str, Any]]:
    """The facts about each old root, for JSON; the caller adds ``kept-for``. An old root that is
    not measured by the *deadline* (``time.monotonic()``) has no size.
    """
    verdicts = {history.path(entry): verdict for entry, verdict in pruning.judge()}
    found = []
    for entry in history.entries():
        verdict = verdicts.get(history.path(entry)) if entry.kind == RETIRED else None
        name = entry.name if entry.kind == RETIRED else None
        found.append({
            "name": entry.label,
            "kind": entry.kind,
            "path": history.path(entry),
            "retired": name.time if name else None,
            "keep": bool(name and name.keep),
            "unused": bool(name and name.unused),
            "unsynced": bool(name and name.unsynced),
            "exclusive": history_size.measure(history, entry, deadline),
            "due": bool(verdict and verdict.due),
            "reason": verdict.reason if verdict else _never(entry),
        })  # fmt: skip
    return found


def _never(entry: OldRoot) -> str:
    if entry.kind == RECIPE:
        return "of the shell recipe: deleted only by 'roots prune --recipe-names'"
    return "not made by ephemeroot: never deleted"


def show(entries: Sequence[dict[str, Any]]) -> None:
    """Print a table for people."""
    if not entries:
        terminal.say("  (none)")
        return
    now = time.time()
    terminal.table(
        [(e["name"], _age(e, now), _size(e), _becomes(e)) for e in entries],
        right=(1, 2),
        colours=[terminal.YELLOW if entry["due"] else "" for entry in entries],
    )
    sizes = [e["exclusive"] for e in entries if e["kind"] != FOREIGN]
    known = [size for size in sizes if size is not None]
    terminal.say(f"  {amounts.size(sum(known))} in total, without data that several share")
    if len(known) < len(sizes):
        terminal.say(
            f"  ?: not measured within {MEASURING} s; run 'ephemeroot roots show NAME' to measure "
            "one"
        )


def _size(entry: dict[str, Any]) -> str:
    if entry["exclusive"] is None:
        return "" if entry["kind"] == FOREIGN else "?"
    return amounts.size(entry["exclusive"])


def _age(entry: dict[str, Any], now: float) -> str:
    """The time since the retirement, if the clock was synchronised then."""
    if entry["retired"] is None or entry["unsynced"] or entry["retired"] > now:
        return ""
    return terminal.duration(now - entry["retired"])


def _becomes(entry: dict[str, Any]) -> str:
    reason = "; ".join([entry["reason"], *entry["kept-for"]])
    return f"due: {reason}" if entry["due"] else reason
