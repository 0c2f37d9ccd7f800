"""Every verb, interrupted by every signal at each of its mount, rename and unlink calls.

The verbs are the parser's (`verb_cases`), the calls those that a traced run of each makes. A case
is one call, one signal, and whether it comes instead of the call or after it: nothing is lost,
nothing stays mounted, and the same verb run again completes. `make proof` goes through all of
them, other runs through a sample in which every verb, family of calls and signal is.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import proof
from system_calls import Event, Moment, family
from verb_cases import CASES, Case
from verb_judge import Course, Seen, left_over
from verb_machine import Ended, Image, VerbMachine

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("bindfs"),
    pytest.mark.requires_program("setpriv"),
]

SEED = 68
"""One with which the sample has each signal with each family of calls, and both instead of and
after calls of each.
"""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_loses_nothing_when_interrupted(
    case: Case, verb_image: Image, record_property: Callable[[str, object], None]
) -> None:
    course, calls = _undisturbed(case, verb_image)
    moments = list(_moments(calls))
    if not proof.is_whole():
        moments = sample(moments, case)
    record_property("cases", len(moments))
    words = dict(calls)
    failures = []
    for moment in moments:
        problems = _interrupt(course, moment, verb_image)
        if problems:
            failures.append("\n    ".join([describe(moment, words[moment.event]), *problems]))
    assert not failures, f"{len(failures)} of {len(moments)} cases\n" + "\n".join(failures)


@contextmanager
def _machine(case: Case, image: Image) -> Iterator[VerbMachine]:
    name = case.id if case.prepare else ""
    with image.machine(name, case.prepare, booted=case.booted) as machine:
        if case.start is not None:
            case.start(machine)
        yield machine


def _run(
    case: Case, machine: VerbMachine, *, traced: bool = False, moment: Moment | None = None
) -> Ended:
    return machine.ephemeroot(
        *case.argv, user=case.user, daemons=case.daemons, traced=traced, moment=moment
    )


def _undisturbed(case: Case, image: Image) -> tuple[Course, list[tuple[Event, str]]]:
    """What the case comes to, and the calls it makes on the way."""
    with _machine(case, image) as machine:
        before = Seen.of(machine)
        first = _run(case, machine, traced=True)
        done = Seen.of(machine)
        # What makes no such call has nothing that a second run would find half done.
        second = _run(case, machine) if first.calls else first
        again = Seen.of(machine) if first.calls else done
    course = Course(case, before, done, again)
    assert (first.code, second.code) == (case.code, case.again), (first, second)
    assert course.judge_itself() == []
    return course, first.calls


def _interrupt(course: Course, moment: Moment, image: Image) -> list[str]:
    """What is wrong after the signal, or after the run that follows."""
    case = course.case
    with _machine(case, image) as machine:
        ended = _run(case, machine, moment=moment)
        if not ended.met:
            return ["this run made no such call"]
        problems = course.judge_interrupted(Seen.of(machine))
        if "Traceback" in ended.err:
            problems.append(ended.err)
        rerun = _run(case, machine)
        completed = course.judge_completed(Seen.of(machine), rerun.code)
        if rerun.code not in (case.code, case.again):
            completed.append(f"it said: {rerun.out[-300:]}{rerun.err[-600:]}")
        names = left_over(completed)
        if names and len(names) == len(completed):
            completed = _after_a_boot(machine, case, names)
        problems += completed
    return problems


def _after_a_boot(machine: VerbMachine, case: Case, names: list[str]) -> list[str]:
    """Which of *names*, which a second run left, the next boot leaves too."""
    machine.reboot(ephemeral=case.armed)
    if not case.armed:
        machine.must("leave", "--finish")
    state = machine.state()
    return [f"{name} is left over, even by the next boot" for name in names if name in state]


def _moments(calls: list[tuple[Event, str]]) -> list[Moment]:
    """Every signal at every call."""
    found = []
    for (event, _), number in itertools.product(calls, SIGNALS):
        found.append(Moment(event, number, entry=True, to="caller"))
        # Those two come from a terminal, which sends them to all of a group.
        terminal = number in (signal.SIGINT, signal.SIGHUP)
        found.append(Moment(event, number, entry=False, to="group" if terminal else "caller"))
        if event.process and not terminal:
            found.append(Moment(event, number, entry=False, to="first"))
    return found


def sample(moments: list[Moment], case: Case, seed: int = SEED) -> list[Moment]:
    """One or two moments, in different families of calls, and the same at each run."""
    chance = random.Random(f"{seed} {case.id}")
    families = sorted({family(moment.event.call) for moment in moments})
    chosen = chance.sample(families, min(1 if case.name else 2, len(families)))
    return [
        chance.choice([moment for moment in moments if family(moment.event.call) == one])
        for one in chosen
    ]


def describe(moment: Moment, words: str) -> str:
    """For people."""
    event = moment.event
    when = "instead of" if moment.entry else "after"
    call = f"{event.call} {event.count} of process {event.process} ({words})"
    return f"{signal.Signals(moment.number).name} to the {moment.to} {when} {call}:"
