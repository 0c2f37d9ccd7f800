"""Only one verb at a time writes boot files, images and the applied plan; tested with two
processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proof
from base_machine import Machine
from btrfs_image import DEFAULTS, fresh_disk
from ephemeroot import cli
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers import btrfs
from programs import PROGRAM

pytestmark = pytest.mark.requires_loop


# The arguments for each verb that changes the machine; None: the verb changes no input of the next
# boot. The verbs are the parser's, so a new verb must be added to one group or the other here.
LOCKED: dict[str, list[list[str]] | None] = {
    "init": None,
    "check": None,
    "edit": None,
    "where": None,
    "plan": None,
    "rehearse": None,
    "apply": [["--yes", "--no-images"]],
    "status": None,
    "diff": None,
    "roots": None,
    "adopt": [["/var"]],
    "next-boot": None,
    "base": [["create"], ["run", "--", "true"], ["rollback", "--yes"]],
    "upgrade": [["--yes"]],
    "install": [["--yes", "package"]],
    "remove": [["--yes", "package"]],
    "leave": [["--yes", "--no-images"]],
    "setup": [["dracut"], ["mkinitcpio", "--remove"]],
    "home": None,
    "copyback": None,
    "image": None,
    "boot-complete": None,
    "package-change": None,
    "unsaved": None,
    "schema": None,
}
"""``boot-complete`` and ``leave --finish`` are called by units, and wait instead."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path, 512) as disk:
        machine = Machine(disk, tmp_path / "machine")
        plan = Plan(wipe=[_wipe(disk.loop)], persist=[])
        (machine.top / "root/etc/ephemeroot/plan.json").write_bytes(plan.dump())
        machine.create()
        yield machine


def _wipe(device: str) -> Wipe:
    return Wipe(
        target="/", wiper="btrfs", attribute=f"{btrfs.__name__}:Btrfs", device=device,
        subvolume="root", settings=DEFAULTS | {"base": "root-base"},
    )  # fmt: skip


def hold(machine: Machine, *words: str) -> subprocess.Popen[str]:
    """Start *words* in the machine, and return as soon as they have printed a line."""
    process = subprocess.Popen(
        machine.words(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "ready" not in (line := process.stdout.readline()):
        assert line, "it has ended"
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Let the process continue to its end."""
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


# A process that holds a lock, as `apply` does, until it reads a line.
HOLDER = """\
import sys
from pathlib import Path
from ephemeroot.plan import lock
with lock.hold(Path("/"), "ephemeroot apply"):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_each_verb_of_the_parser_is_listed() -> None:
    assert list(LOCKED) == list(cli.VERBS)


@pytest.mark.parametrize(
    "words",
    proof.sample([[verb, *words] for verb, calls in LOCKED.items() for words in calls or ()], 6),
    ids=" ".join,
)
def test_refuses_each_verb_while_base_run_runs(machine: Machine, words: list[str]) -> None:
    running = hold(machine, str(PROGRAM), "base", "run", "--", "sh", "-ec", "echo ready; read line")
    try:
        done = machine.call(*words)
        assert done.returncode == 3, done.stderr
        assert "locked by another run: 'ephemeroot base run', process " in done.stderr
        assert f"wait until it ends, then run 'ephemeroot {words[0]}" in done.stderr
    finally:
        end(running)


@pytest.mark.parametrize("words", [["create"], ["run", "--", "true"], ["rollback", "--yes"]])
def test_refuses_base_verbs_while_apply_runs(machine: Machine, words: list[str]) -> None:
    before = machine.state()
    applying = hold(machine, sys.executable, "-P", "-c", HOLDER)
    try:
        done = machine.call("base", *words)
        assert done.returncode == 3, done.stderr
        assert "locked by another run: 'ephemeroot apply', process " in done.stderr
        assert machine.state() == before
        assert machine.call("base", "list").returncode == 0
        assert machine.call("base", "run", "--dry-run", "--", "true").returncode == 0
    finally:
        end(applying)


@pytest.mark.parametrize("words", [["boot-complete"], ["leave", "--finish"]], ids=" ".join)
def test_verbs_that_units_call_wait(machine: Machine, words: list[str]) -> None:
    applying = hold(machine, sys.executable, "-P", "-c", HOLDER)
    waiting = subprocess.Popen(
        machine.words(str(PROGRAM), *words),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert waiting.stdout is not None
    try:
        assert "locked by another run: 'ephemeroot apply'" in waiting.stdout.readline()
        assert waiting.poll() is None
    finally:
        end(applying)
    assert waiting.wait(60) == 0
    waiting.stdout.close()


@pytest.mark.parametrize("words", [["apply", "--yes", "--no-images"], ["leave", "--no-images"]])
def test_undoes_a_killed_run_before_writing_boot_files(machine: Machine, words: list[str]) -> None:
    (machine.boot / "entry.conf").write_text("before")
    script = "echo during > /boot/entry.conf; echo ready; read line"
    running = hold(machine, str(PROGRAM), "base", "run", "--", "sh", "-ec", script)
    for one in _descendants(running.pid):
        os.kill(one, signal.SIGKILL)
    running.communicate(timeout=60)
    assert (machine.boot / "entry.conf").read_text() == "during\n"
    done = machine.call(*words)
    assert "an earlier 'base run' was interrupted: the base is unchanged" in done.stdout
    assert (machine.boot / "entry.conf").read_text() == "before"
    # Files that this verb writes are not undone.
    (machine.boot / "entry.conf").write_text("after")
    assert machine.call("base", "run", "--", "true").returncode == 0
    assert (machine.boot / "entry.conf").read_text() == "after"


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in _descendants(int(child)))]


def test_locks_another_root_without_creating_a_file_in_it(tmp_path: Path) -> None:
    code = HOLDER.replace('Path("/")', "Path(sys.argv[1])")
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    words = ["setup", "dracut", "--root", str(tmp_path)]
    try:
        assert cli.main(words) == 3
        assert os.listdir(tmp_path) == []
    finally:
        end(holder)
    assert cli.main(words) == 0
