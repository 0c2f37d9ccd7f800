"""Ctrl-C at any moment of ``base run`` and ``base rollback`` loses no base."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import base_interrupts
import proof
from base_machine import Machine
from btrfs_image import fresh_disk, uuid

pytestmark = pytest.mark.requires_loop

SAMPLE = 60


@pytest.fixture
def based(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path, 512) as disk:
        machine = Machine(disk, tmp_path / "machine")
        configuration = machine.top / "root/etc/ephemeroot/ephemeroot.toml"
        text = configuration.read_text()
        configuration.write_text(text.replace("keep-bases = 2", "keep-bases = 1000"))
        machine.create()
        yield machine


@pytest.mark.parametrize("verb", ["run", "rollback"])
def test_an_interruption_at_any_step_loses_no_base(based: Machine, verb: str) -> None:
    assert based.run("echo another > /etc/base").returncode == 0
    words = [sys.executable, "-P", base_interrupts.__file__, verb, str(SAMPLE)]
    environment = ["env", f"PYTHONPATH={Path(base_interrupts.__file__).parent}"]
    done = subprocess.run(
        based.words(*environment, *words),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lost"] == [], done.stderr
    assert found["steps"] > 500
    assert found["interrupted"] > SAMPLE - 12
    proof.record(f"interruption at a step: base {verb}", found["interrupted"])


@pytest.mark.requires_program("strace")
@pytest.mark.parametrize("verb", ["run", "rollback"])
def test_a_signal_at_any_rename_loses_no_base(based: Machine, tmp_path: Path, verb: str) -> None:
    assert based.run("echo another > /etc/base").returncode == 0
    script = (
        "run",
        "--",
        "sh",
        "-ec",
        "cp /proc/sys/kernel/random/uuid /etc/content; cp /etc/content /boot",
    )
    words = based.base_words(*(script if verb == "run" else ("rollback", "--yes")))
    trace = tmp_path / "trace"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        based.disk.sync()
        strace = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=/rename", *options]
        return subprocess.run(
            [*strace, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    assert run().returncode == 0
    renames = len(re.findall(r"\brename\w*\(", trace.read_text()))
    assert renames >= 2
    for number in proof.sample(range(1, renames + 1), 4):
        before = bases(based)
        interrupted = run("-e", f"inject=/rename:signal=SIGINT:when={number}")
        assert interrupted.returncode in (0, 1, 130), interrupted.stderr
        assert "Traceback" not in interrupted.stderr
        assert before <= bases(based), f"rename {number} of {renames}"
        assert (based.path / "etc/os-release").exists(), f"rename {number} of {renames}"
        again = based.run("true")
        assert again.returncode == 0, again.stderr
        assert before <= bases(based), f"rename {number} of {renames}"
        assert based.strays() == []
        proof.record(f"signal at a rename: base {verb}", 1)


def bases(machine: Machine) -> set[str]:
    """The UUIDs of the base and of all old bases, complete or not."""
    beside = [path for path in machine.top.iterdir() if path.name != "root"]
    old = machine.top / "old_bases"
    return {uuid(path) for path in (*beside, *old.iterdir()) if path.stat().st_ino == 256}
