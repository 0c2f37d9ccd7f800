"""Which old roots may go: pure functions of names, a clock and a policy.

The rules (docs/design.md): nothing young, never fewer than ``keep-last`` boot-complete roots, never
one marked ``.keep`` or pinned, and ages only by a clock that can be trusted. Nothing
here looks at a disk, so every rule can be tried against a model.
"""

from __future__ import annotations

from ephemeroot.errors import Refused
from ephemeroot.linux.values import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ephemeroot.wipers.names import Name

DAY = 86400

_UNITS = "KMGTPE"

DAWN = 1767225600
"""2026-01-01: no boot of this program was earlier, so a clock before it is wrong."""


def retention(what: str = "old root", only: str = "") -> tuple[Option, ...]:
    """The options of a wiper that keeps old roots, the same for each (see ``retention``): *what*
    it calls one, and *only* in which mode it keeps them, with a colon.
    """
    when = f"{only} " if only else ""
    return (
        Option("keep-days", "days", 30, f"{when}days for which every {what} is kept"),
        Option("keep-last", "integer", 3, f"{when}{what}s that are kept whatever their age"),
        Option(
            "keep-at-most", "integer", None, f"{when}maximum number of {what}s, whatever their age"
        ),
        Option(
            "min-free",
            "amount",
            None,
            f"{when}free space below which the oldest {what}s are deleted early",
        ),
    )


class Candidate:
    """An old root to judge.

    ``serial`` grows with each root that the filesystem ever made (btrfs: the subvolume
    id) and so gives the order even without a clock; 0 if there is none. ``pinned``:
    something still needs it.
    """

    __slots__ = ("name", "pinned", "serial")

    def __init__(self, name: Name, serial: int = 0, *, pinned: bool = False) -> None:
        self.name = name
        self.serial = serial
        self.pinned = pinned


class Policy:
    """``keep_days``: younger ones stay. ``keep_last``: so many stay, whatever their age.
    ``keep_at_most``: no more than so many stay, ``.keep`` and ``keep_last`` aside. ``None``: no
    more than ``keep_days`` of those whose age is not known, as if there were a boot a day; without
    a clock nothing would ever go. ``counted_by`` is the setting that ``keep_last`` comes from where
    no age is asked for (``keep_days`` is 0 then); messages name it.
    """

    __slots__ = ("counted_by", "keep_at_most", "keep_days", "keep_last")

    def __init__(
        self,
        keep_days: int,
        keep_last: int,
        keep_at_most: int | None = None,
        *,
        counted_by: str = "",
    ) -> None:
        self.keep_days = keep_days
        self.keep_last = keep_last
        self.keep_at_most = keep_at_most
        self.counted_by = counted_by


class Verdict:
    """The verdict on one old root, and the reason in a few words.

    ``due``: it goes. ``spare``: it may go early when space is short. Neither: it stays.
    """

    __slots__ = ("candidate", "due", "reason", "spare")

    def __init__(self, candidate: Candidate, reason: str, *, due: bool, spare: bool) -> None:
        self.candidate = candidate
        self.reason = reason
        self.due = due
        self.spare = spare


def judge(candidates: Iterable[Candidate], policy: Policy, now: int) -> list[Verdict]:
    """A verdict on each candidate, those that should go first coming first.

    *now* is the time by which ages are measured, see ``measure``.
    """
    ordered = sorted(candidates, key=_age_order)
    newest = _newest(ordered, policy.keep_last)
    excess = _excess(ordered, policy)
    return [
        _judge_one(candidate, policy, now, id(candidate) in newest, excess.get(id(candidate), ""))
        for candidate in ordered
    ]


def _age_order(candidate: Candidate) -> tuple[bool, int, int, int]:
    """Roots without a complete boot go first, then the oldest: by serial, else by name."""
    name = candidate.name
    return not name.unused, candidate.serial, name.time, name.number


def _newest(candidates: Sequence[Candidate], count: int) -> set[int]:
    """The ``id()`` of those that ``keep-last`` protects.

    ``.unused`` ones are not history, and ``.keep`` ones need no protection: neither takes
    the place of another. By which order the newest are found matters only where a clock
    was wrong, and then the newest by *either* order stay.
    """
    living = [c for c in candidates if not c.name.unused and not c.name.keep]
    if count <= 0:
        return set()
    by_serial = sorted(living, key=lambda c: (c.serial, c.name.identity))[-count:]
    by_name = sorted(living, key=lambda c: (c.name.identity, c.serial))[-count:]
    return {id(c) for c in by_serial} | {id(c) for c in by_name}


def _excess(ordered: Sequence[Candidate], policy: Policy) -> dict[int, str]:
    """Those of the candidates, *ordered* by age, that are more than may stay, and why."""
    kept = [c for c in ordered if not c.name.keep and not c.pinned]
    if policy.keep_at_most is not None:
        beyond = kept[: max(len(kept) - policy.keep_at_most, 0)]
        return {id(c): f"more than {policy.keep_at_most} old ones" for c in beyond}
    unknown = _undated(ordered)
    undated = [c for c in kept if id(c) in unknown]
    beyond = undated[: max(len(undated) - policy.keep_days, 0)]
    return {id(c): f"more than {policy.keep_days} of unknown age" for c in beyond}


def _undated(candidates: Iterable[Candidate]) -> set[int]:
    """The ``id()`` of those whose names do not tell their age: ``.unsynced`` ones, and those that
    a later one is not younger than by its name. A clock that stands still, or starts at the same
    time at each boot, writes such names and makes nothing old.
    """
    found = set()
    earliest: int | None = None
    later = 0
    for candidate in sorted(candidates, key=lambda c: (c.serial, c.name.identity), reverse=True):
        name = candidate.name
        if name.unsynced:
            found.add(id(candidate))
        elif earliest is None or name.time < earliest:
            earliest, later = name.time, candidate.serial
        elif candidate.serial < later:
            found.add(id(candidate))
    return found


def _judge_one(
    candidate: Candidate, policy: Policy, now: int, newest: bool, excess: str
) -> Verdict:
    name = candidate.name
    if name.keep:
        return Verdict(candidate, "marked .keep", due=False, spare=False)
    if candidate.pinned:
        return Verdict(candidate, "still needed to seed the store", due=False, spare=False)
    if newest:
        return Verdict(candidate, f"one of the newest {policy.keep_last}", due=False, spare=False)
    if policy.counted_by:
        reason = f"{policy.counted_by} is {policy.keep_last}"
        return Verdict(candidate, reason, due=True, spare=True)
    if policy.keep_days == 0:
        return Verdict(candidate, "keep-days is 0", due=True, spare=True)
    if excess:
        return Verdict(candidate, excess, due=True, spare=True)
    if name.unsynced:
        return Verdict(candidate, "its age is not known", due=False, spare=True)
    # A name from the future was written by a wrong clock: as if retired now.
    age = max(now - name.time, 0)
    due = age > policy.keep_days * DAY
    relation = "older" if due else "not old enough"
    reason = f"{age // DAY} days old, {relation} than {policy.keep_days}"
    return Verdict(candidate, reason, due=due, spare=True)


def measure(
    names: Iterable[Name], now: float, *, synchronised: bool, seen: int, keep_days: int
) -> int:
    """The time by which ages may be measured, in seconds since 1970.

    *seen* is the latest time that a synchronised clock ever showed here (0: none): an
    age by it is valid. A clock that is not synchronised is used only if it is
    at most *keep_days* past the newest retirement: a machine that was switched off for a
    year looks like one whose clock is a year ahead.
    """
    if synchronised:
        return int(now)
    if now <= _latest(names, seen) + keep_days * DAY:
        return max(seen, int(now))
    return seen


def is_plausible(
    names: Iterable[Name], now: float, *, synchronised: bool, seen: int, keep_days: int
) -> bool:
    """Whether *now* may become the time in a name; otherwise that name is ``.unsynced``.

    A day back is forgiven: a hardware clock in local time is hours off until the real
    system has corrected it. Without any history all that is asked is a year that can be.
    """
    if synchronised:
        return True
    latest = _latest(names, seen)
    if latest == 0:
        return now >= DAWN
    return latest - DAY <= now <= latest + keep_days * DAY


def _latest(names: Iterable[Name], seen: int) -> int:
    return max([seen, *(name.time for name in names if not name.unsynced)])


def is_ahead(name: Name, now: float) -> bool:
    """Whether *name* is in the future of a trusted clock by more than clocks differ."""
    return name.time > now + DAY


def policy(settings: dict[str, object]) -> Policy:
    """The policy of a wiper's settings (``contract.retention``). Raises ``Refused`` for one that
    is not a number: a plan is input that may be damaged.
    """
    most = _count(settings, "keep-at-most") if settings.get("keep-at-most") is not None else None
    return Policy(_count(settings, "keep-days"), _count(settings, "keep-last"), most)


def _count(settings: dict[str, object], key: str) -> int:
    value = settings.get(key)
    if not isinstance(value, int) or value < 0:
        raise Refused(f"the setting {key} is not a number: {value!r}")
    return value


def amount(value: object, total: int) -> int:
    """Bytes of an ``amount``: ``10%`` of *total*, ``512M``, a number of bytes; 0 for none.

    Raises ``ValueError`` for anything else.
    """
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    text = str(value).strip()
    if text.endswith("%"):
        return int(total * float(text[:-1]) / 100)
    number = text.upper().removesuffix("B").removesuffix("I")
    power = _UNITS.find(number[-1:]) + 1 if number else 0
    return int(float(number[:-1] if power else number) * 1024**power)
