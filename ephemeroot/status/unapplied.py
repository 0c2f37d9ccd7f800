"""Differences between the configuration and the applied plan, which no boot follows yet."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.config import Machine, examine, read
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks.plan import Plan
from ephemeroot.plan import applied
from ephemeroot.plan.compile import compile_examination

HINT = "run 'ephemeroot apply'"


@dataclass(slots=True)
class Unapplied:
    """``added`` are declared paths that are not in the applied plan, ``stored`` those of them that
    exist in their store, ``removed`` paths that only the applied plan has. ``errors`` is the number
    of errors that prevent an ``apply``; ``differs``: the plan would change.
    """

    added: list[str] = field(default_factory=list)
    stored: frozenset[str] = frozenset()
    removed: list[str] = field(default_factory=list)
    errors: int = 0
    differs: bool = False

    def lines(self) -> list[str]:
        """One line for each difference."""
        lines = [
            f"{path} is declared but not applied: {self._consequence(path)} ({HINT})"
            for path in self.added
        ]
        lines += [
            f"{path} is not declared any more, but the next boot binds it ({HINT})"
            for path in self.removed
        ]
        if self.errors:
            count = terminal.count(self.errors, "error")
            lines.append(
                f"the configuration has {count} and cannot be applied (run 'ephemeroot check')"
            )
        elif self.differs and not lines:
            lines.append(f"the configuration was changed but not applied ({HINT})")
        return lines

    def _consequence(self, path: str) -> str:
        if path in self.stored:
            return "its content is in the store, but the next boot does not bind it"
        return "the next boot forgets its content"

    @property
    def complaints(self) -> list[str]:
        """The lines about content that would be lost."""
        return self.lines()[: len(self.added)]


def look(root: Path, plan: Plan) -> Unapplied:
    """Compare the configuration of the machine at *root* with its applied *plan*.

    Raises ``PermissionError`` if this user cannot read it. Without a configuration there are no
    differences.
    """
    machine = Machine.of(str(root))
    try:
        examination = examine(read(machine), machine)
    except Misconfigured:
        return Unapplied()
    if examination.errors:
        if any("ermission denied" in error.reason for error in examination.errors):
            raise PermissionError
        return Unapplied(errors=len(examination.errors))
    try:
        compiled = compile_examination(examination).plan
    except EphemerootError:
        return Unapplied(errors=1)
    before, after = plan.declared(), compiled.declared()
    added = [path for path in after if path not in before]
    sources = {one.path: one.in_store for one in examination.declared}
    return Unapplied(
        added=added,
        stored=frozenset(path for path in added if _exists(root, sources.get(path))),
        removed=[path for path in before if path not in after],
        differs=not applied.are_equivalent(plan, compiled),
    )


def _exists(root: Path, path: str | None) -> bool:
    return path is not None and os.path.lexists(root / path.lstrip("/"))
