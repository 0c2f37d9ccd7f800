"""Bases that a plan needs and that do not exist: no boot could make a new root."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ephemeroot.cli import histories
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace

HINT = "run 'ephemeroot base create'"


@dataclass(frozen=True, slots=True)
class Missing:
    """``target`` is what is made fresh from it, ``reason`` what is missing."""

    target: str
    reason: str

    @property
    def line(self) -> str:
        """What that means."""
        return f"{self.reason}: no boot can make a new {self.target}"


def look(root: str, plan: Plan) -> list[Missing]:
    """What is missing for *plan* on the machine below *root*.

    Only root may look, and only where the device is: whatever else cannot be opened is reported by
    the boot and by the checks of the configuration.
    """
    if os.geteuid() != 0:
        return []
    found = []
    try:
        keepers = histories.made_fresh(root, plan)
    except EphemerootError:
        return []
    for keeper in keepers:
        try:
            with Namespace() as private, keeper.past(private) as history:
                reason = history.missing_base() if history is not None else ""
        except (EphemerootError, OSError):
            continue
        if reason:
            found.append(Missing(keeper.target, reason))
    return found
