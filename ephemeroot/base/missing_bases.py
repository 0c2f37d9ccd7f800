"""Bases that a plan needs and that do not exist: no boot could make a new root."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.hooks.plan import Plan
from ephemeroot.old_roots import histories
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.wipers.history import History

HINT = "run 'ephemeroot base create'"


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing base of ``target``, with the ``reason``."""

    target: str
    reason: str

    @property
    def line(self) -> str:
        """What that means."""
        return f"{self.reason}: no boot can make a new {self.target}"


def look(root: str, plan: Plan) -> list[Missing]:
    """Missing bases of *plan* on the machine at *root*, in histories that can be opened."""
    found = histories.ask(root, plan, find)
    return [missing for _, missing in found if missing is not None]


def find(keeper: Keeper, history: History) -> Missing | None:
    """The missing base of *history*, if it is missing."""
    reason = history.missing_base()
    return Missing(keeper.target, reason) if reason else None
