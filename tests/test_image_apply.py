"""`ephemeroot apply`, up to the images: markers, plan, generations, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.config import markers
from ephemeroot.hooks import plan as plans
from ephemeroot.image import stores
from machine_tree import MAIN, SOUND, MachineTree


@pytest.fixture
def machine(tmp_path: Path) -> MachineTree:
    """A machine with a sound configuration and a store that has no marker yet."""
    tree = MachineTree(tmp_path)
    (tmp_path / "persistent/.ephemeroot-store").unlink()
    return tree


def apply(machine: MachineTree, *words: str) -> int:
    return cli.main(["apply", "--no-images", "--root", str(machine.path), *words])


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_everything_is_written(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(machine, "--yes") == 0
    store = machine.path / "persistent"
    raw = (machine.path / "etc/ephemeroot/plan.json").read_bytes()
    plan = plans.parse(raw)
    assert plan.generation == 1
    identity = markers.read(str(store))
    assert identity is not None
    assert f'"id":"{identity}"'.encode() in raw
    assert (store / ".ephemeroot/plan.json").read_bytes() == raw
    assert stores.generation(store) == 1
    assert (store / "etc/ephemeroot/plan.json").read_bytes() == raw
    assert (store / MAIN).read_text() == SOUND
    out = capsys.readouterr().out
    assert "changes since nothing applied:" in out
    assert "+ before the root is mounted: rotate /" in out
    assert "no boot wipes" in out


def test_again_is_the_same(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(machine, "--yes") == 0
    before = content(machine.path)
    capsys.readouterr()
    assert apply(machine, "--yes") == 0
    assert content(machine.path) == before
    assert "no changes since generation 1" in capsys.readouterr().out


def test_a_change_is_a_new_generation(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    identity = markers.read(str(machine.path / "persistent"))
    capsys.readouterr()
    machine.write(MAIN, SOUND.replace('"/var/log"', '"/var/lib/new"'))
    assert apply(machine, "--yes") == 0
    assert stores.generation(machine.path / "persistent") == 2
    assert markers.read(str(machine.path / "persistent")) == identity
    changes = [li for li in capsys.readouterr().out.splitlines() if li.startswith(("  + ", "  - "))]
    assert any(line.startswith("  - ") and "/var/log" in line for line in changes)
    assert any(line.startswith("  + ") and "/var/lib/new" in line for line in changes)
    assert not any("/etc/machine-id" in line for line in changes)
    assert (machine.path / "persistent" / MAIN).read_text() != SOUND


def test_a_change_that_no_line_shows_counts(machine: MachineTree) -> None:
    assert apply(machine, "--yes") == 0
    machine.write(MAIN, SOUND.replace('type = "btrfs"', 'type = "btrfs"\ntimeout = 12'))
    assert apply(machine, "--yes") == 0
    assert stores.generation(machine.path / "persistent") == 2


def test_generations_never_go_back(machine: MachineTree) -> None:
    """The store has seen more than this root: another root applied, or this one is restored."""
    assert apply(machine, "--yes") == 0
    stores.record(machine.path / "persistent", b"", 41)
    assert apply(machine, "--yes") == 0
    plan = plans.parse((machine.path / "etc/ephemeroot/plan.json").read_bytes())
    assert plan.generation == stores.generation(machine.path / "persistent") == 42


def test_a_damaged_record_is_mended(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    record = machine.path / "persistent/.ephemeroot/generation"
    record.write_text("?")
    assert apply(machine, "--yes") == 0
    assert record.read_text() == "1\n"
    assert "generation" in capsys.readouterr().err
    record.write_text("?")
    (machine.path / "etc/ephemeroot/plan.json").unlink()
    assert apply(machine, "--yes") == 1
    assert record.read_text() == "?"


def test_a_damaged_plan_is_replaced(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    plan = machine.path / "etc/ephemeroot/plan.json"
    plan.write_bytes(plan.read_bytes()[:-9])
    assert apply(machine, "--yes") == 0
    assert plans.parse(plan.read_bytes()).generation == 2
    assert "damaged" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(machine.path)
    assert apply(machine, "--dry-run") == 0
    assert content(machine.path) == before
    lines = capsys.readouterr().out.splitlines()
    announced = [line.strip() for line in lines[lines.index("to be done:") + 1 :]]
    assert apply(machine, "--yes") == 0
    done = capsys.readouterr().out.splitlines()
    for line in announced:
        assert any(result.startswith(f"{line}: ") for result in done), line


def test_it_does_not_guess_a_yes(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(machine.path)
    assert apply(machine) == 2  # pytest's standard input is no terminal
    assert "--yes" in capsys.readouterr().err
    assert content(machine.path) == before


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_asked_on_a_terminal(machine: MachineTree, answer: str, status: int) -> None:
    master, slave = os.openpty()
    try:
        os.write(master, answer.encode() or b"\x04")
        code = "import sys; from ephemeroot.cli import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, "apply", "--no-images", "--root", machine.path],
            stdin=slave,
            capture_output=True,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == status, done.stderr
    assert b"Apply? [y/N]" in done.stderr
    assert (machine.path / "etc/ephemeroot/plan.json").exists() == (status == 0)


def test_a_question_is_not_in_the_json(machine: MachineTree) -> None:
    master, slave = os.openpty()
    try:
        os.write(master, b"y\n")
        code = "import sys; from ephemeroot.cli import main; sys.exit(main(sys.argv[1:]))"
        words = [sys.executable, "-P", "-c", code, "apply", "--json", "--no-images"]
        done = subprocess.run(
            [*words, "--root", str(machine.path)], stdin=slave, capture_output=True
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "ephemeroot-apply"


def test_mistakes_are_reported_and_nothing_is_written(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(MAIN, SOUND + 'colour = "red"\n')
    before = content(machine.path)
    assert apply(machine, "--yes") == 2
    assert "colour" in capsys.readouterr().err
    assert content(machine.path) == before


def test_one_at_a_time(machine: MachineTree) -> None:
    folder = os.open(machine.path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert apply(machine, "--yes") == 3
    finally:
        os.close(folder)
    assert apply(machine, "--yes") == 0


def test_images_of_another_root_are_refused(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(machine.path)
    assert cli.main(["apply", "--yes", "--root", str(machine.path)]) == 2
    assert "--no-images" in capsys.readouterr().err
    assert content(machine.path) == before


def test_json(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(machine, "--yes", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "ephemeroot-apply"
    assert document["generation"] == 1
    assert all(not step["result"].startswith("failed") for step in document["steps"])
