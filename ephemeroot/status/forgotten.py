"""What on this root the next boot forgets: compared with the root as this boot has made it."""

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
    """The differences that ``ephemeroot diff`` shows, caches and the like included if *everything*.

    Raises ``EphemerootError`` or ``OSError``; only root may look.
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
    """What was compared with ``which``; ``instead`` says why it is not the fresh root."""

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
    """Compare the present root of *keeper* with *against*, else with the fresh one. *lost* are the
    declared paths that are not in effect, *patterns* what is left out.
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
    """The declared paths that are not in effect, as seen from what is made fresh."""
    inside = (persisted.below(one.path, keeper.target) for one in lost)
    return frozenset(path for path in inside if path is not None)
