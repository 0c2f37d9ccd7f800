"""Machines as installers of distributions leave them are converted by what `ephemeroot init` says.

Its commands run as they stand, on the running machine, in its order, with the reboots that it asks
for; then `check` and `rehearse` have nothing to complain about.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import distributions
import proof
from distributions import Distribution
from live_machine import REBOOT, Done, LiveMachine, live_machine

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

_NEVER = "### "
_BOOTS = 4


def marked(name: str, command: str) -> str:
    return f"echo '{_NEVER}{name}'\n{command}\n"


def part(done: Done, name: str) -> str:
    """What was printed behind that mark."""
    _, _, rest = done.text.partition(f"{_NEVER}{name}\n")
    return rest.partition(_NEVER)[0]


def init(machine: LiveMachine) -> list[str]:
    """The commands that `init` prints on the machine as it is."""
    done = machine.session(marked("init", "ephemeroot init --json"))
    assert done.status == 0, done.text
    document = json.loads(part(done, "init"))
    return [command for step in document["steps"] for command in step["commands"]]


def follow(machine: LiveMachine) -> list[str]:
    """Type what `init` prints, boot after boot, until it says that all is done; every command."""
    typed: list[str] = []
    for _ in range(_BOOTS):
        commands = init(machine)
        typed += commands
        mine = [c for c in commands if c not in ("ephemeroot apply", "ephemeroot rehearse")]
        script = "".join(
            f"echo {shlex.quote('$ ' + one)}\n{one}\nrc=$?; [ $rc = 0 ] || exit $rc\n"
            for one in mine
        )
        done = machine.session(script)
        assert done.status == REBOOT, done.text
        if "ephemeroot apply" in commands:
            return typed
    raise AssertionError(f"init asks for more than {_BOOTS} boots: {typed}")


@pytest.mark.parametrize(
    "distribution", proof.sample(distributions.ALL, 3, seed=2), ids=lambda one: one.name
)
def test_becomes_ephemeral_by_what_init_says(distribution: Distribution, tmp_path: Path) -> None:
    with live_machine(distribution, tmp_path) as machine:
        typed = follow(machine)
        assert not [c for c in typed if c.startswith("#")], "left to the reader"
        done = machine.session(
            marked("check", "ephemeroot check --json")
            + marked("rehearse", "ephemeroot rehearse --json")
            + marked("apply", "ephemeroot apply --yes --no-images; echo status $?")
            + marked("again", "ephemeroot check --json")
        )
        print(done.text)
        problems = json.loads(part(done, "check"))["problems"]
        assert [p for p in problems if "has no marker yet" not in p["reason"]] == []
        found = json.loads(part(done, "rehearse"))
        assert [f for f in found["findings"] if f["severity"] != "note"] == []
        assert found["would-boot"]
        assert part(done, "apply").endswith("status 0\n")
        assert json.loads(part(done, "again"))["errors"] == 0
