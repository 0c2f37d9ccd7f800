"""What would keep the next boot from making something fresh, as the wipers can know it now."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ephemeroot import backends
from ephemeroot.cli import histories
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace


@dataclass(frozen=True, slots=True)
class Obstacle:
    """``target`` is not made fresh, for that ``reason``."""

    target: str
    reason: str
    hint: str


def look(root: str, plan: Plan) -> list[Obstacle]:
    """What there is for *plan* on the machine below *root*.

    Only root may look. What cannot be opened is reported by other checks and by the boot.
    """
    if os.geteuid() != 0:
        return []
    try:
        keepers = histories.made_fresh(root, plan)
    except EphemerootError:
        return []
    found = []
    for keeper in keepers:
        try:
            with Namespace() as private, keeper.past(private) as history:
                backend = backends.of(keeper.wiper)
                errors = backend.obstacles(history) if history is not None else []
        except (EphemerootError, OSError):
            continue
        found += [Obstacle(keeper.target, error.message, error.hint) for error in errors]
    return found
