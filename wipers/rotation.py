"""The steps of a wipe that keeps the previous root, as far as they are the same for all backends.

The backend defines what the root's name means and how a fresh root gets it. This module decides
the name of the retired root, the root that stores are seeded from, which old roots are pruned, and
how a wipe reacts to a full filesystem.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError
from ephemeroot.wipers import changes, retire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ephemeroot.wipers.boot import Boot
    from ephemeroot.wipers.history import History
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.oldroot import OldRoot
    from ephemeroot.wipers.pruning import Pruning

    Made = TypeVar("Made")


class Rotation:
    """One rotation of the root of *history*, with *pruning* at its end.

    ``NO_SPACE`` is logged when there is no space for a fresh root. ``BOOTS``: the previous
    root is the one that boots if nothing is wiped. ``shown`` are the layers of what ``show`` has
    mounted, for ``Boot.hand_over``.
    """

    NO_SPACE = "no space for a fresh root: old roots that are due are deleted first"
    BOOTS = True

    __slots__ = ("boot", "history", "outcome", "pruning", "shown")

    def __init__(self, boot: Boot, history: History, pruning: Pruning) -> None:
        from ephemeroot.wipers.boot import Outcome

        self.boot = boot
        self.history = history
        self.pruning = pruning
        self.outcome = Outcome(fresh={})
        self.shown: tuple[str, str] | None = None

    # What a backend supplies

    def show(self, entry: OldRoot | None, give: Callable[[str], bool]) -> bool:
        """Call *give* with the path of *entry*, of the previous root if that is ``None``, mounted
        meanwhile; return what it returns.
        """
        raise NotImplementedError

    def is_full(self, error: Exception) -> bool:
        """Whether *error* says that there was no space for a fresh root."""
        raise NotImplementedError

    # What backends share

    def name(self, *, unused: bool) -> Name:
        """The name under which the previous root retires; *unused*: no boot of it was complete."""
        return retire.next_name(
            self.history,
            self.boot.now,
            synchronised=self.boot.synchronised,
            keep_days=self.pruning.policy.keep_days,
            unused=unused,
        )

    def hand_over(self, name: Name) -> Name:
        """Seed the stores from the newest boot-complete root: the previous one, which retires as
        *name*, or an old one if no boot of that was complete.

        Returns *name*, with ``.keep`` if the previous root must be kept; an old root that must be
        is marked at once.
        """
        return self.hand_over_from(self.history.newest_complete() if name.unused else None, name)

    def hand_over_from(self, entry: OldRoot | None, name: Name) -> Name:
        """The same from *entry*; ``None``: from the previous root."""
        boot = self.boot
        if entry is None or entry.name is None:
            complete = not name.unused
            keep = self.show(
                None,
                lambda path: boot.hand_over(
                    path, complete, name.text, boots=self.BOOTS, layers=self.shown
                ),
            )
            return name.changed(keep=True) if keep else name
        known = entry.name
        keep = self.show(
            entry,
            lambda path: boot.hand_over(path, True, known.text, boots=False, layers=self.shown),
        )
        if keep and not known.keep:
            self.history.rename(entry, known.changed(keep=True))
        return name

    def describe_hand_over(self, name: Name) -> None:
        """What ``hand_over`` would seed, in the same lines."""
        if not name.unused or self.history.newest_complete() is not None:
            self.boot.describe_hand_over()

    def with_room(self, make: Callable[[], Made]) -> Made:
        """The result of *make*; without space, prune due old roots once and call it again."""
        try:
            return make()
        except (EphemerootError, OSError) as error:
            if not self.is_full(error):
                raise
        self.boot.log(self.NO_SPACE)
        self.prune()
        self.pruning.settle(None)
        return make()

    def prune(self) -> None:
        """Prune within the budget. Failures are problems, not errors."""
        result = self.pruning.run(budget=self.boot.budget, log=self.boot.log)
        self.outcome.pruned += result.pruned
        self.outcome.problems += result.problems

    def finish(self, settle: Callable[[], bool] = lambda: True) -> None:
        """Prune if *settle* returns True, and record the kept old roots. The fresh root is in
        place, so failures are problems, not errors.
        """
        try:
            if settle():
                self.prune()
            self.outcome.kept = [entry.label for entry in self.history.retired()]
        except (EphemerootError, OSError) as error:
            self.outcome.problems.append(f"{self.history.where}: {error}")

    def foresee(self) -> None:
        """What ``prune`` would do, in the same lines."""
        for change in self.pruning.changes():
            self.boot.log(change.describe())

    def attempt(self, line: str, action: Callable[[], object]) -> bool:
        """Log *line* and run *action*; whether it did not fail. A failure is a problem."""
        return changes.attempt(line, action, self.outcome.problems, self.boot.log)
