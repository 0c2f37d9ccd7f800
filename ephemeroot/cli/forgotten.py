"""What on this root the next boot forgets: compared with the root as this boot has made it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.cli import declared_paths, histories, looking
from ephemeroot.cli.histories import Keeper
from ephemeroot.cli.looking import BASE, FRESH
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace
from ephemeroot.oldroots import persisted
from ephemeroot.oldroots.comparison import Difference
from ephemeroot.oldroots.in_effect import NotInEffect


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
            patterns=looking.patterns([], everything=everything),
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
    touched = None
    with ExitStack() as trees:
        with keeper.past(private) as history:
            try:
                mount = looking.against(history, which)
            except EphemerootError as error:
                if against is not None or which == BASE:
                    raise
                instead = error.message
                which = BASE
                mount = looking.against(history, which)
            old = trees.enter_context(looking.attached(private, which, mount))
            if history is not None and which == FRESH and old.fd is not None:
                touched = None if content else history.touched()
        present = looking.live(keeper)
        new = trees.enter_context(looking.attached(private, "this root", present))
        comparison = looking.prepare(
            history,
            [old, new],
            elsewhere=looking.elsewhere(plan, keeper, [one.path for one in lost]),
            shown=_of_the_root(lost, keeper),
            patterns=patterns,
            touched=touched,
            content=content,
        )
        return Compared(which, looking.run(comparison, old, new), comparison.problems, instead)


def _of_the_root(lost: Sequence[NotInEffect], keeper: Keeper) -> frozenset[str]:
    """The declared paths that are not in effect, as seen from what is made fresh."""
    inside = (persisted.below(one.path, keeper.target) for one in lost)
    return frozenset(path for path in inside if path is not None)
