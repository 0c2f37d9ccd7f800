"""The warning that a store has no marker yet, which ``apply`` is about to write."""

from __future__ import annotations

from ephemeroot.config.problem import Place, Problem

_MISSING = "'ephemeroot apply' writes it"


def missing(place: Place, store: str) -> Problem:
    """The warning that *store* has no marker yet."""
    return Problem.at(place, f"the store {store} has no marker yet", _MISSING, warning=True)


def is_missing(problem: Problem) -> bool:
    """Whether *problem* is that warning."""
    return problem.warning and problem.hint == _MISSING
