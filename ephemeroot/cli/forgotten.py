"""What on this root the next boot forgets, for the verbs that only need to know how much it is."""

from __future__ import annotations

from pathlib import Path

from ephemeroot.cli import declared_paths, diff, histories, looking
from ephemeroot.linux.namespace import Namespace
from ephemeroot.oldroots.comparison import Difference


def look(root: str, *, everything: bool) -> list[Difference]:
    """The differences that ``ephemeroot diff`` shows, caches and the like included if *everything*.

    Raises ``EphemerootError`` or ``OSError``; only root may look.
    """
    keeper = histories.fresh_at(root, "/")
    with Namespace() as private:
        found = diff.compare(
            histories.applied_plan(root),
            keeper,
            private,
            declared_paths.look(Path(root)),
            patterns=looking.patterns([], everything=everything),
        )
    return found.differences
