"""Changes on this root that the next boot forgets: its differences from the fresh root."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories, persisted, two_roots
from ephemeroot.old_roots.comparison import Difference
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.old_roots.in_effect import NotInEffect
from ephemeroot.old_roots.two_roots import BASE, FRESH
from ephemeroot.status import declared_paths


def look(root: str, *, everything: bool) -> list[Difference]:
    """The differences that ``ephemeroot diff`` shows, with caches and the like if *everything*.

    Needs root's privileges. Raises ``EphemerootError`` or ``OSError``.
    """
    keeper = histories.fresh_at(root, "/")
    with Namespace() as private:
        found = compare(
            histories.applied_plan(root),
            keeper,
            private,
            declared_paths.look(Path(root)),
            patterns=two_roots.patterns([], everything=everything),
        )
    return found.differences


@dataclass(frozen=True, slots=True)
class Compared:
    """The differences from ``which``; ``instead`` is the reason if that is not the fresh root."""

    which: str
    differences: list[Difference]
    problems: list[str]
    instead: str = ""


def compare(
    plan: Plan,
    keeper: Keeper,
    private: Namespace,
    lost: Sequence[NotInEffect],
    *,
    patterns: Sequence[str],
    against: str | None = None,
    content: bool = False,
) -> Compared:
    """Compare the present root of *keeper* with *against*, by default with the fresh root. *lost*
    are the declared paths that are not in effect; paths that match *patterns* are left out.
    """
    which = against or FRESH
    instead = ""
    changed_since = None
    with ExitStack() as trees:
        with keeper.past(private) as history:
            try:
                mount = two_roots.against(history, which)
            except EphemerootError as error:
                if against is not None or which == BASE:
                    raise
                instead = error.message
                which = BASE
                mount = two_roots.against(history, which)
            old = trees.enter_context(two_roots.attached(private, which, mount))
            if history is not None and which == FRESH and old.fd is not None:
                changed_since = None if content else history.changed_since()
        present = two_roots.live(keeper)
        new = trees.enter_context(two_roots.attached(private, "this root", present))
        comparison = two_roots.prepare(
            history,
            [old, new],
            elsewhere=two_roots.elsewhere(plan, keeper, [one.path for one in lost]),
            shown=_of_the_root(lost, keeper),
            patterns=patterns,
            changed_since=changed_since,
            content=content,
        )
        return Compared(which, two_roots.run(comparison, old, new), comparison.problems, instead)


def _of_the_root(lost: Sequence[NotInEffect], keeper: Keeper) -> frozenset[str]:
    """The declared paths that are not in effect, relative to the target of *keeper*."""
    inside = (persisted.below(one.path, keeper.target) for one in lost)
    return frozenset(path for path in inside if path is not None)
