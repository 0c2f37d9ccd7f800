"""`system_calls` sends a signal at exactly the given call, in the given process."""

from __future__ import annotations

import signal

import pytest

from system_calls import Event, Moment
from verb_machine import Ended, Image

pytestmark = pytest.mark.requires_loop

# The first process makes one link, a program that it starts another, and the first process a third.
SCRIPT = "ln -s x /tmp/one; (ln -s x /tmp/two; ln -s x /tmp/three); ln -s x /tmp/four; :"
PYTHON = """
import os, signal
def note(number, frame): os.symlink('x', '/tmp/noted')
signal.signal(signal.SIGINT, note)
try:
    os.symlink('x', '/tmp/one')
except InterruptedError:
    os.symlink('x', '/tmp/failed')
"""


def links(image: Image, moment: Moment | None, *words: str) -> tuple[Ended, list[str]]:
    with image.machine() as machine:
        done = machine.run(*words, traced=True, moment=moment)
        return done, sorted(path.name for path in machine.inside("/tmp").iterdir())


def test_records_each_call_with_its_process_and_its_paths(verb_image: Image) -> None:
    done, found = links(verb_image, None, "sh", "-c", SCRIPT)
    assert done.code == 0
    assert found == ["four", "one", "three", "two"]
    calls = [words for event, words in done.calls if event.call in ("symlink", "symlinkat")]
    assert calls == [f"x /tmp/{name}" for name in ("one", "two", "three", "four")]
    assert len({event.process for event, _ in done.calls}) == 4


@pytest.mark.parametrize(("entry", "expected"), [(True, ["one"]), (False, ["one", "two"])])
def test_kills_instead_of_the_call_or_after_it(
    verb_image: Image, entry: bool, expected: list[str]
) -> None:
    event = Event(1, _call(verb_image), 1)
    words = ("sh", "-ec", SCRIPT)
    done, found = links(verb_image, Moment(event, signal.SIGKILL, entry, "caller"), *words)
    assert done.met
    assert found == expected
    assert done.code == 128 + signal.SIGKILL


def test_kills_the_first_process_and_waits_for_the_others(verb_image: Image) -> None:
    event = Event(1, _call(verb_image), 1)
    done, found = links(
        verb_image, Moment(event, signal.SIGKILL, False, "first"), "sh", "-c", SCRIPT
    )
    assert done.code == -signal.SIGKILL
    assert found == ["one", "three", "two"]


@pytest.mark.parametrize("entry", [True, False])
def test_a_handler_runs_before_or_after_the_call(verb_image: Image, entry: bool) -> None:
    event = Event(0, "symlink", 1)
    moment = Moment(event, signal.SIGINT, entry, "caller")
    _, found = links(verb_image, moment, "python3", "-IS", "-c", PYTHON)
    assert found == (["failed", "noted"] if entry else ["noted", "one"])


def test_a_moment_that_never_comes_is_reported(verb_image: Image) -> None:
    moment = Moment(Event(0, "rename", 9), signal.SIGKILL, True, "caller")
    done, _ = links(verb_image, moment, "sh", "-c", SCRIPT)
    assert (done.code, done.met) == (0, False)


def _call(image: Image) -> str:
    """The call that ln uses on this machine."""
    done, _ = links(image, None, "ln", "-s", "x", "/tmp/link")
    return done.calls[0][0].call
