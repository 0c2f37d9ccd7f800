"""Obstacles that would prevent a wipe at the next boot, as far as the wipers can predict them."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot import backends
from ephemeroot.base import missing_bases
from ephemeroot.hooks.plan import Plan
from ephemeroot.old_roots import histories
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.wipers.history import History


@dataclass(frozen=True, slots=True)
class Obstacle:
    """``target`` would not be made fresh, for ``reason``; ``is_base``: its base is missing."""

    target: str
    reason: str
    hint: str
    is_base: bool = False


def look(root: str, plan: Plan) -> list[Obstacle]:
    """The obstacles for *plan* on the machine at *root*, in the histories that can be opened."""
    return [one for _, found in histories.ask(root, plan, _find) for one in found]


def _find(keeper: Keeper, history: History) -> list[Obstacle]:
    missing = missing_bases.find(keeper, history)
    errors = backends.of(keeper.wiper).obstacles(history)
    found = [Obstacle(keeper.target, error.message, error.hint) for error in errors]
    if missing is None:
        return found
    return [Obstacle(keeper.target, missing.line, missing_bases.HINT, is_base=True), *found]
