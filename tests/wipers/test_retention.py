"""Retention compared with a plain model: any set of names, any clock, any policy."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from ephemeroot.wipers import names, retention
from ephemeroot.wipers.names import Name
from ephemeroot.wipers.retention import DAWN, DAY, Candidate, Policy

NOON = 1795435200
TIMES = st.one_of(
    st.integers(0, 10 * DAY),  # no clock
    st.integers(NOON - 90 * DAY, NOON + 2 * DAY),
    st.integers(NOON + 300 * DAY, NOON + 30000 * DAY),  # a clock that is ahead
)
NAMES = st.builds(
    Name,
    TIMES,
    st.integers(1, 3),
    unsynced=st.booleans(),
    unused=st.booleans(),
    keep=st.booleans(),
)
CANDIDATES = st.lists(
    st.builds(Candidate, NAMES, st.integers(256, 400), pinned=st.booleans()),
    max_size=40,
    unique_by=(lambda c: c.name.identity, lambda c: c.serial),
)
MOST = st.one_of(st.none(), st.integers(0, 20))
POLICIES = st.builds(Policy, st.integers(0, 60), st.integers(0, 6), MOST)
BY_AGE = st.builds(Policy, st.integers(0, 60), st.integers(0, 6), st.just(1000))
"""Policies whose limit no history of these tests reaches, so that only ages decide."""


def due(candidates: list[Candidate], policy: Policy, now: int) -> list[Candidate]:
    return [v.candidate for v in retention.judge(candidates, policy, now) if v.due]


@given(CANDIDATES, POLICIES, TIMES)
def test_every_candidate_gets_one_decision(
    candidates: list[Candidate], policy: Policy, now: int
) -> None:
    verdicts = retention.judge(candidates, policy, now)
    assert sorted(id(v.candidate) for v in verdicts) == sorted(id(c) for c in candidates)
    assert all(v.reason for v in verdicts)


@given(CANDIDATES, BY_AGE, TIMES)
def test_never_deletes_a_recent_root(candidates: list[Candidate], policy: Policy, now: int) -> None:
    assume(policy.keep_days > 0)
    for gone in due(candidates, policy, now):
        assert now - gone.name.time > policy.keep_days * DAY
        assert not gone.name.unsynced


@given(CANDIDATES, POLICIES, TIMES)
def test_never_deletes_a_kept_or_pinned_root(
    candidates: list[Candidate], policy: Policy, now: int
) -> None:
    for verdict in retention.judge(candidates, policy, now):
        if verdict.candidate.name.keep or verdict.candidate.pinned:
            assert not verdict.due
            assert not verdict.spare


@given(CANDIDATES, POLICIES, TIMES)
def test_never_leaves_fewer_than_keep_last(
    candidates: list[Candidate], policy: Policy, now: int
) -> None:
    """Not even if all roots that may be deleted early are deleted; only boot-complete roots are
    counted.
    """
    complete = [c for c in candidates if not c.name.unused]
    left = [
        v.candidate
        for v in retention.judge(candidates, policy, now)
        if not v.due and not v.spare and not v.candidate.name.unused
    ]
    assert len(left) >= min(policy.keep_last, len(complete))


@given(CANDIDATES, POLICIES, TIMES)
def test_keeps_the_newest_by_either_order(
    candidates: list[Candidate], policy: Policy, now: int
) -> None:
    complete = [c for c in candidates if not c.name.unused]
    kept = {
        id(v.candidate)
        for v in retention.judge(candidates, policy, now)
        if not v.due and not v.spare
    }
    for order in (lambda c: c.serial, lambda c: c.name.identity):
        newest = sorted(complete, key=order, reverse=True)[: policy.keep_last]
        assert {id(c) for c in newest} <= kept


@given(CANDIDATES, POLICIES, TIMES)
def test_agrees_with_the_model(candidates: list[Candidate], policy: Policy, now: int) -> None:
    """The whole rule, written as in the documentation."""
    complete = [c for c in candidates if not c.name.unused and not c.name.keep]
    newest: set[int] = set()
    for order in (lambda c: c.serial, lambda c: c.name.identity):
        ranked = sorted(complete, key=order, reverse=True)
        newest |= {id(c) for c in ranked[: policy.keep_last]}
    ranked = sorted(candidates, key=lambda c: (not c.name.unused, c.serial), reverse=True)
    counted = [c for c in ranked if not c.name.keep and not c.pinned]
    if policy.keep_at_most is None:
        dated = [c for c in candidates if not c.name.unsynced]
        counted = [
            c
            for c in counted
            if c.name.unsynced
            or any(d.serial > c.serial and d.name.time <= c.name.time for d in dated)
        ]
    most = policy.keep_days if policy.keep_at_most is None else policy.keep_at_most
    beyond = {id(c) for c in counted[most:]}
    expected = set()
    for candidate in candidates:
        name = candidate.name
        if name.keep or candidate.pinned or id(candidate) in newest:
            continue
        old = not name.unsynced and now - name.time > policy.keep_days * DAY
        if policy.keep_days == 0 or old or id(candidate) in beyond:
            expected.add(id(candidate))
    assert {id(c) for c in due(candidates, policy, now)} == expected


@given(CANDIDATES, POLICIES, TIMES, st.integers(0, 100 * DAY))
def test_more_time_never_means_fewer_deletions(
    candidates: list[Candidate], policy: Policy, now: int, later: int
) -> None:
    before = {id(c) for c in due(candidates, policy, now)}
    after = {id(c) for c in due(candidates, policy, now + later)}
    assert before <= after


@given(CANDIDATES, POLICIES, TIMES)
def test_due_roots_are_sorted_by_age(candidates: list[Candidate], policy: Policy, now: int) -> None:
    serials = [c.serial for c in due(candidates, policy, now) if not c.name.unused]
    assert serials == sorted(serials)


@given(st.lists(NAMES), TIMES, TIMES, st.integers(0, 60))
def test_an_unsynchronised_clock_is_trusted_only_within_a_limit(
    found: list[Name], now: int, seen: int, keep_days: int
) -> None:
    measured = retention.measure(found, now, synchronised=False, seen=seen, keep_days=keep_days)
    trusted = [seen, *(name.time for name in found if not name.unsynced)]
    assert seen <= measured <= max(trusted) + keep_days * DAY
    assert measured in (seen, now)


@given(st.lists(NAMES), TIMES, TIMES, st.integers(0, 60))
def test_a_synchronised_clock_is_trusted(
    found: list[Name], now: int, seen: int, keep_days: int
) -> None:
    assert retention.measure(found, now, synchronised=True, seen=seen, keep_days=keep_days) == now


@given(CANDIDATES, st.integers(1, 60), st.integers(0, 6))
def test_without_a_trusted_time_only_roots_beyond_the_limit_are_due(
    candidates: list[Candidate], keep_days: int, keep_last: int
) -> None:
    """All names are .unsynced and no clock was ever right: 2099 does not make a root old."""
    names = [c.name.changed(unsynced=True) for c in candidates]
    nameless = [Candidate(n, c.serial) for n, c in zip(names, candidates, strict=True)]
    now = retention.measure(names, 4070908800, synchronised=False, seen=0, keep_days=keep_days)
    assert due(nameless, Policy(keep_days, keep_last, 1000), now) == []
    counted = [c for c in nameless if not c.name.keep]
    gone = due(nameless, Policy(keep_days, keep_last), now)
    assert len(counted) - len(gone) <= max(keep_days, 2 * keep_last)
    assert len(counted) - len(gone) >= min(keep_days, len(counted))


@given(CANDIDATES, POLICIES, TIMES)
def test_never_keeps_more_than_the_limit(
    candidates: list[Candidate], policy: Policy, now: int
) -> None:
    """Where a clock was wrong, ``keep-last`` may protect other roots by name than by
    serial number.
    """
    assume(policy.keep_at_most is not None)
    counted = [c for c in candidates if not c.name.keep and not c.pinned]
    left = len(counted) - len(due(candidates, policy, now))
    assert left <= (policy.keep_at_most or 0) + 2 * policy.keep_last


@given(st.lists(st.integers(1, 60), min_size=5, max_size=60), st.integers(1, 40))
def test_boots_with_a_good_clock_are_never_unsynced(gaps: list[int], keep_days: int) -> None:
    now = DAWN
    found: list[Name] = []
    for gap in gaps:
        now += min(gap, keep_days) * DAY
        assert retention.is_plausible(found, now, synchronised=False, seen=0, keep_days=keep_days)
        found.append(Name(now))


@given(st.lists(NAMES, min_size=1), st.integers(0, 60))
def test_a_name_that_is_not_unsynced_is_near_the_others(found: list[Name], keep_days: int) -> None:
    latest = max((n.time for n in found if not n.unsynced), default=0)
    assume(latest > 2 * DAY)

    def plausible(now: float) -> bool:
        return retention.is_plausible(found, now, synchronised=False, seen=0, keep_days=keep_days)

    assert plausible(latest)
    assert plausible(latest - DAY + 1)
    assert not plausible(latest - DAY - 1)
    assert not plausible(latest + keep_days * DAY + 1)


def test_the_first_boot_needs_a_plausible_year() -> None:
    def plausible(now: int) -> bool:
        return retention.is_plausible([], now, synchronised=False, seen=0, keep_days=30)

    assert not plausible(12)
    assert plausible(NOON)


@given(
    st.lists(st.integers(-400 * DAY, 400 * DAY), min_size=1, max_size=6),
    st.integers(1, 10),
    st.integers(0, 3),
)
def test_a_clock_that_repeats_itself_does_not_fill_the_disk(
    steps: list[int], keep_days: int, keep_last: int
) -> None:
    """The clock stands still, jumps, or starts at the same times again: whatever is pruned at each
    boot, the number of old roots has a limit.
    """
    policy = Policy(keep_days, keep_last)
    history: list[Candidate] = []
    for boot in range(80):
        now = NOON + steps[boot % len(steps)]
        found = [c.name for c in history]
        plausible = retention.is_plausible(
            found, now, synchronised=False, seen=0, keep_days=keep_days
        )
        name = names.free(Name(now, unsynced=not plausible), {n.identity for n in found})
        history.append(Candidate(name, boot + 1))
        measured = retention.measure(
            [c.name for c in history], now, synchronised=False, seen=0, keep_days=keep_days
        )
        gone = {id(c) for c in due(history, policy, measured)}
        history = [c for c in history if id(c) not in gone]
    assert len(history) <= keep_days + 2 * keep_last + len(steps)
