"""Pruning: carry out what retention decided, each deletion proven, within a time budget."""

from __future__ import annotations

import time

from ephemeroot.errors import EphemerootError
from ephemeroot.wipers import changes, names, retention
from ephemeroot.wipers.retention import Candidate, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from ephemeroot.step import Step
    from ephemeroot.wipers.changes import Deletion, Renaming
    from ephemeroot.wipers.history import History
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.oldroot import OldRoot
    from ephemeroot.wipers.retention import Verdict


_SETTLE = 30.0
# Bytes: what a deletion of less frees may be written by other programs meanwhile.
_NOTICEABLE = 1 << 20


class Clock:
    """``now`` in seconds since 1970, and whether it is known to be right."""

    __slots__ = ("now", "synchronised")

    def __init__(self, now: float, *, synchronised: bool) -> None:
        self.now = now
        self.synchronised = synchronised


class Result:
    """Deleted names, and failures, one line each. ``unfinished``: the time limit was reached."""

    __slots__ = ("problems", "pruned", "unfinished")

    def __init__(self) -> None:
        self.pruned: list[str] = []
        self.problems: list[str] = []
        self.unfinished = False


class Pruning:
    """One run of pruning over *history*.

    ``min_free`` is in bytes, 0 for none. ``pinned`` has names or serial numbers, as
    text, of old roots that something still needs.
    """

    __slots__ = ("clock", "history", "min_free", "pinned", "policy")

    def __init__(
        self,
        history: History,
        policy: Policy,
        clock: Clock,
        *,
        min_free: int = 0,
        pinned: Container[str] = (),
    ) -> None:
        self.history = history
        self.policy = policy
        self.clock = clock
        self.min_free = min_free
        self.pinned = pinned

    def judge(self) -> list[tuple[OldRoot, Verdict]]:
        """A verdict on each old root of Ephemeroot's, those that should go first coming first."""
        entries: dict[int, OldRoot] = {}
        candidates = []
        for entry in self.history.retired():
            if entry.name is not None:
                candidate = Candidate(entry.name, entry.serial, pinned=self._is_pinned(entry))
                entries[id(candidate)] = entry
                candidates.append(candidate)
        now = retention.measure(
            [c.name for c in candidates],
            self.clock.now,
            synchronised=self.clock.synchronised,
            seen=self.history.seen(),
            keep_days=self.policy.keep_days,
        )
        verdicts = retention.judge(candidates, self.policy, now)
        return [(entries[id(verdict.candidate)], verdict) for verdict in verdicts]

    def _is_pinned(self, entry: OldRoot) -> bool:
        return any(key in self.pinned for key in (entry.label, entry.text, str(entry.serial)))

    def redatings(self) -> list[Renaming]:
        """New names for those whose time a wrong clock wrote: as if retired now.

        Only with a synchronised clock, and never later than that: from then on they age.
        """
        if not self.clock.synchronised:
            return []
        found = []
        taken: set[tuple[int, int]] = set()
        for entry in sorted(self.history.retired(), key=lambda entry: entry.serial):
            name = entry.name
            # A kept one needs no age, and the stores' records name it.
            if name is None or name.keep or self._is_pinned(entry):
                continue
            if name.unsynced or retention.is_ahead(name, self.clock.now):
                new = self._dated_now(name, taken)
                taken.add(new.identity)
                found.append(changes.Renaming(self.history, entry, new, "its clock was wrong"))
        return found

    def _dated_now(self, name: Name, taken: set[tuple[int, int]]) -> Name:
        dated = name.changed(unsynced=False).at((names.Name(self.clock.now).time, 1))
        while (found := names.free(self.history.free(dated), taken)) != dated:
            dated = found
        return dated

    def due(self) -> list[Deletion]:
        """Deletions that do not depend on free space, the oldest first."""
        return [
            changes.Deletion(self.history, entry, verdict.reason)
            for entry, verdict in self.judge()
            if verdict.due
        ]

    def spare(self) -> list[Deletion]:
        """Early deletions while less than ``min_free`` is free, in this order."""
        if not self.min_free:
            return []
        from ephemeroot import amounts  # only a disk that is nearly full needs it

        return [
            changes.Deletion(self.history, entry, f"less than {amounts.size(self.min_free)} free")
            for entry, verdict in self.judge()
            if verdict.spare and not verdict.due
        ]

    def changes(self) -> list[Step]:
        """What ``run`` would do with time and space enough, for a dry run."""
        return [*self.redatings(), *self.due()]

    def run(self, *, budget: float | None = None, log: Callable[[str], None]) -> Result:
        """Prune; *budget* is in seconds, ``None`` for no limit.

        Everything that cannot be deleted is a problem and does not stop the rest. The caller sees
        to it that the fresh root is on the disk before this is called.
        """
        deadline = None if budget is None else time.monotonic() + budget
        self.history.deadline = deadline
        result = Result()
        if self.history.is_anothers:
            return result
        for change in self.redatings():
            changes.attempt(change.describe(), change.execute, result.problems, log)
        for deletion in self.due():
            if _is_over(deadline):
                result.unfinished = True
                break
            self._delete(deletion, result, log)
        if self.min_free and not result.unfinished:
            self._make_room(result, deadline, log)
        if self.clock.synchronised:
            changes.attempt("record the time", self._record, result.problems, lambda _: None)
        return result

    def _record(self) -> str:
        self.history.record_seen(int(self.clock.now))
        return ""

    def _make_room(
        self, result: Result, deadline: float | None, log: Callable[[str], None]
    ) -> None:
        if self.history.space()[0] >= self.min_free:
            return
        from ephemeroot import amounts  # only a disk that is nearly full needs it

        # The kernel frees space only after cleaning up, so measure the free space.
        self.settle(deadline)
        for deletion in self.spare():
            free = self.history.space()[0]
            if free >= self.min_free:
                return
            if _is_over(deadline):
                result.unfinished = True
                return
            if reason := self.history.retained():
                result.problems.append(
                    f"less than {amounts.size(self.min_free)} are free, but no old root is deleted "
                    f"early: {reason}"
                )
                return
            exclusive = self._exclusive(deletion)
            if not self._delete(deletion, result, log):
                continue
            self.settle(deadline)
            if _is_over(deadline):
                continue
            if exclusive >= _NOTICEABLE and self.history.space()[0] <= free:
                result.problems.append(
                    f"{deletion.entry.label} held {amounts.size(exclusive)}, but deleting it freed "
                    "nothing: no other old root is deleted early"
                )
                return

    def _exclusive(self, deletion: Deletion) -> int:
        """Bytes that only it has, 0 if that is not known."""
        try:
            return self.history.facts(deletion.entry).exclusive or 0
        except (EphemerootError, OSError):
            return 0

    def _delete(self, deletion: Deletion, result: Result, log: Callable[[str], None]) -> bool:
        """Whether it did not fail."""
        done = changes.attempt(deletion.describe(), deletion.execute, result.problems, log)
        if done:
            result.pruned.append(deletion.entry.label)
        return done

    def settle(self, deadline: float | None) -> None:
        """Wait until the space of deleted roots is free, or until *deadline*.

        Half a minute at most: a cleaner that is stuck must not hold up more than that.
        """
        latest = time.monotonic() + _SETTLE
        deadline = latest if deadline is None else min(deadline, latest)
        self.history.settle(deadline)


def by_settings(history: History, clock: Clock, *, pinned: Container[str] = ()) -> Pruning:
    """Pruning of *history* as the settings have it."""
    return Pruning(history, history.policy, clock, min_free=history.min_free, pinned=pinned)


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
