"""Every verb, interrupted by every signal at each of its mount, rename and unlink calls.

The verbs are the parser's (`verb_cases`), and the calls are those that a traced run of each makes.
A case is one call, one signal, and whether the signal comes instead of the call or after it:
nothing is lost, nothing stays mounted, and a second run completes the work. `make proof` tests all
of them, other runs a sample that has every verb, family of calls and signal.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

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

SEED = 7
"""A seed with which the sample has each signal with each family of calls, both instead of and after
the call.
"""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


@pytest.mark.parametrize("case", proof.sample(CASES, 24), ids=lambda case: case.id)
def test_loses_nothing_when_interrupted(
    case: Case, verb_image: Image, record_property: Callable[[str, object], None]
) -> None:
    course, calls = _undisturbed(case, verb_image)
    if case.own:
        calls = [call for call in calls if not call[0].process]
    moments = list(_moments(calls))
    if not proof.is_whole():
        moments = sample(moments, case)
    record_property("cases", len(moments))
    words = dict(calls)
    failures = []
    with Trials(course, verb_image) as trials:
        for moment in moments:
            problems = trials.interrupt(moment)
            if problems:
                failures.append("\n    ".join([describe(moment, words[moment.event]), *problems]))
    assert not failures, f"{len(failures)} of {len(moments)} cases\n" + "\n".join(failures)
    proof.record("signal at the entry or exit of a system call: all verbs", len(moments))


@contextmanager
def _machine(case: Case, image: Image) -> Iterator[VerbMachine]:
    name = case.id if case.prepare else ""
    with image.machine(name, case.prepare, booted=case.booted) as machine:
        if case.start is not None:
            case.start(machine)
        yield machine


def _run(case: Case, machine: VerbMachine, **how: Any) -> Ended:
    return machine.ephemeroot(*case.argv, user=case.user, daemons=case.daemons, **how)


def _undisturbed(case: Case, image: Image) -> tuple[Course, list[tuple[Event, str]]]:
    """The result of the case, and the calls that it makes."""
    with _machine(case, image) as machine:
        before = Seen.of(machine)
        first = _run(case, machine, traced=True)
        done = Seen.of(machine)
        # A verb without such calls cannot leave anything half done.
        second = _run(case, machine) if first.calls else first
        again = Seen.of(machine) if first.calls else done
    course = Course(case, before, done, again)
    assert (first.code, second.code) == (case.code, case.again), (first, second)
    assert course.judge_itself() == []
    return course, first.calls


class Trials:
    """The machines on which one verb is interrupted, one after the other.

    A machine on which an interrupted run has changed nothing is used again: it equals a copy of the
    image, and a second run on it equals the undisturbed first run.
    """

    def __init__(self, course: Course, image: Image) -> None:
        self.course = course
        self.image = image
        self._held = ExitStack()
        self._machine: VerbMachine | None = None
        self._surroundings: frozenset[str] = frozenset()

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def interrupt(self, moment: Moment) -> list[str]:
        """The fault after the signal, or after the second run."""
        course, case = self.course, self.course.case
        machine = self._current()
        ended = _run(case, machine, moment=moment)
        if not ended.met:
            self._drop()
            return ["this run made no such call"]
        seen = Seen.of(machine)
        problems = course.judge_interrupted(seen)
        if "Traceback" in ended.err:
            problems.append(ended.err)
        if not self._is_as_before(machine, seen):
            problems += _complete(course, machine)
            self._drop()
        return problems

    def _current(self) -> VerbMachine:
        if self._machine is None:
            self._machine = self._held.enter_context(_machine(self.course.case, self.image))
            self._surroundings = _surroundings(self._machine)
        return self._machine

    def _is_as_before(self, machine: VerbMachine, seen: Seen) -> bool:
        case = self.course.case
        if case.daemons or case.start is not None:  # processes are not compared
            return False
        return seen == self.course.before and _surroundings(machine) == self._surroundings

    def _drop(self) -> None:
        self._machine = None
        self._held.close()


def _surroundings(machine: VerbMachine) -> frozenset[str]:
    """The names in the machine's temporary directories, which `Seen` leaves out."""
    found: set[str] = set()
    for top in ("/run", "/tmp", "/dev"):  # the machine's own files
        for folder, directories, files in os.walk(machine.inside(top)):
            found.update(f"{folder}/{name}" for name in (*directories, *files))
    return frozenset(found)


def _complete(course: Course, machine: VerbMachine) -> list[str]:
    """The fault after a second run."""
    case = course.case
    rerun = _run(case, machine)
    completed = course.judge_completed(Seen.of(machine), rerun.code)
    if rerun.code not in (case.code, case.again):
        completed.append(f"it said: {rerun.out[-300:]}{rerun.err[-600:]}")
    names = left_over(completed)
    if names and len(names) == len(completed):
        completed = _after_a_boot(machine, case, names)
    return completed


def _after_a_boot(machine: VerbMachine, case: Case, names: list[str]) -> list[str]:
    """Which of *names*, left by a second run, the next boot leaves in place, too."""
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
        # These two signals come from a terminal, which sends them to a whole process group.
        terminal = number in (signal.SIGINT, signal.SIGHUP)
        found.append(Moment(event, number, entry=False, to="group" if terminal else "caller"))
        if event.process and not terminal:
            found.append(Moment(event, number, entry=False, to="first"))
    return found


def sample(moments: list[Moment], case: Case, seed: int = SEED) -> list[Moment]:
    """One or two moments, in different families of calls, the same in each run."""
    chance = random.Random(f"{seed} {case.id}")
    families = sorted({family(moment.event.call) for moment in moments})
    chosen = chance.sample(families, min(1 if case.name else 2, len(families)))
    return [
        chance.choice([moment for moment in moments if family(moment.event.call) == one])
        for one in chosen
    ]


def describe(moment: Moment, words: str) -> str:
    """Describe the case in the test's output."""
    event = moment.event
    when = "instead of" if moment.entry else "after"
    call = f"{event.call} {event.count} of process {event.process} ({words})"
    return f"{signal.Signals(moment.number).name} to the {moment.to} {when} {call}:"
