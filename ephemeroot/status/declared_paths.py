"""Declared paths that are not in effect, for ``status`` and ``diff``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ephemeroot import terminal
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operation import Persisted
from ephemeroot.hooks.stage import RUN
from ephemeroot.old_roots import in_effect
from ephemeroot.old_roots.in_effect import NotInEffect
from ephemeroot.status import boot_report
from ephemeroot.status.boot_report import BootReport


def look(root: Path, boot: BootReport | None = None) -> list[NotInEffect]:
    """Declared paths of the machine at *root* that this boot has provided and that are no longer in
    effect, and those that it could not provide. Raises ``PermissionError``.
    """
    try:
        boot = boot_report.read(root) if boot is None else boot
        plan = plans.load(str(root / RUN.lstrip("/") / plans.FOLLOWED))
    except (Damaged, FileNotFoundError):
        return []
    results = {
        str(entry["line"]): str(entry["result"])
        for entry in boot.stages.get("persist", {}).get("operations", [])
    }
    done = [(o, results[o.describe()]) for o in plan.persist if o.describe() in results]
    found = in_effect.look(str(root), done)
    failed = [
        NotInEffect(
            o.path, o.store, f"it failed in this boot: {result.partition(': ')[2] or result}",
            boot.began("persist"),
        )
        for o, result in done
        if isinstance(o, Persisted) and result.startswith("failed")
    ]  # fmt: skip
    return sorted([*found, *failed], key=lambda one: one.path)


def line(one: NotInEffect) -> str:
    """The warning as one line."""
    when = f" since {terminal.moment(one.since)}" if one.since is not None else ""
    return f"{one.path} is declared but not in effect{when}: {one.reason}"


def show(found: Sequence[NotInEffect]) -> None:
    """Print the paths as a section."""
    if not found:
        return
    sys.stdout.write(terminal.heading("declared but not in effect") + "\n")
    for one in found:
        text = terminal.printable(line(one))
        sys.stdout.write("  " + terminal.paint(text, terminal.RED, sys.stdout) + "\n")
        if one.hint:
            terminal.say(f"    hint: {one.hint}")


def to_json(found: Sequence[NotInEffect]) -> list[dict[str, Any]]:
    """The paths for JSON output; ``since`` is in seconds since 1970."""
    return [
        {
            "path": one.path,
            "store": one.store,
            "reason": one.reason,
            "since": one.since,
            "hint": one.hint or None,
        }
        for one in found
    ]


def warn(found: Sequence[NotInEffect]) -> None:
    """Print a warning for each path."""
    for one in found:
        terminal.warning(line(one), one.hint)
