"""`ephemeroot apply` without images: markers, plan, generations, and refusals."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import machine_tree
from btrfs_image import Disk, btrfsutil, fresh_disk
from ephemeroot import cli
from ephemeroot.hooks import plan as plans
from ephemeroot.linux import devices
from ephemeroot.machine.facts import read_store_id
from ephemeroot.plan import stores
from machine_tree import DEVICE, MAIN, MachineTree

pytestmark = pytest.mark.requires_loop

SOUND = machine_tree.SOUND.replace(DEVICE, "LABEL=golden")
"""Valid on every machine that has a device with that label, such as the copies of an image."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture
def bare(tmp_path: Path) -> MachineTree:
    """A machine with a valid configuration, whose store is not mounted."""
    tree = MachineTree(tmp_path, SOUND)
    (tmp_path / "persistent/.ephemeroot-store").unlink()
    return tree


@pytest.fixture
def machine(bare: MachineTree, disk: Disk) -> Iterator[MachineTree]:
    """The same machine with its store mounted; the store has no marker yet."""
    with mounted(disk, bare, "persistent"):
        yield bare


@contextmanager
def mounted(disk: Disk, tree: MachineTree, subvolume: str, point: str = "") -> Iterator[None]:
    """A new *subvolume* of *disk*, mounted at the store's mount point, or at *point* in the
    machine.
    """
    place = str(tree.path / (point or "persistent"))
    btrfsutil.create_subvolume(str(disk.top / subvolume))
    subprocess.run(["mount", "-o", f"subvol={subvolume}", disk.loop, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
        btrfsutil.delete_subvolume(str(disk.top / subvolume))


def apply(machine: MachineTree, *words: str) -> int:
    return cli.main(["apply", "--no-images", "--root", str(machine.path), *words])


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_writes_marker_plan_and_record(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    store = machine.path / "persistent"
    raw = (machine.path / "etc/ephemeroot/plan.json").read_bytes()
    plan = plans.parse(raw)
    assert plan.generation == 1
    identity = read_store_id(str(store))
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


@pytest.mark.parametrize("words", [["--yes"], ["--dry-run"], ["--yes", "--json"]])
def test_refuses_to_mark_a_store_that_is_not_mounted_below_the_root(
    bare: MachineTree, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(bare.path)
    assert apply(bare, *words) == 1
    assert content(bare.path) == before
    captured = capsys.readouterr()
    said = captured.out if "--json" in words else captured.err
    assert f"cannot write to the volume {bare.path}/persistent: not mounted" in said
    assert f"mount LABEL=golden at {bare.path}/persistent, then" in said


def test_refuses_to_mark_a_store_on_another_subvolume(
    bare: MachineTree, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(bare.path)
    with mounted(disk, bare, "other"):
        assert apply(bare, "--yes") == 1
        assert list((bare.path / "persistent").iterdir()) == []
    assert content(bare.path) == before
    assert "the subvolume /other is mounted" in capsys.readouterr().err


def test_refuses_to_mark_a_store_on_another_type(
    bare: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(bare.path / "persistent")
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        assert apply(bare, "--yes") == 1
        assert os.listdir(place) == []
    finally:
        subprocess.run(["umount", place], check=True)
    assert "is mounted as tmpfs, but btrfs is declared" in capsys.readouterr().err


@pytest.mark.parametrize("same", [True, False])
def test_a_store_declared_by_its_uuid_is_compared_with_the_mount(
    bare: MachineTree, disk: Disk, same: bool
) -> None:
    uuid = devices.btrfs_uuid(disk.loop) if same else "3c2a1b0e-0000-4000-8000-0000000000ff"
    bare.write(MAIN, SOUND.replace("LABEL=golden", f"UUID={uuid}"))
    with mounted(disk, bare, "persistent"):
        assert apply(bare, "--yes") == (0 if same else 1)
        assert (bare.path / "persistent/.ephemeroot-store").exists() == same


def test_a_root_may_be_named_through_a_link(machine: MachineTree) -> None:
    link = machine.path.with_name("link-to-machine")
    link.symlink_to(machine.path)
    assert cli.main(["apply", "--no-images", "--yes", "--root", str(link)]) == 0


def test_a_second_apply_changes_nothing(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    before = content(machine.path)
    capsys.readouterr()
    assert apply(machine, "--yes") == 0
    assert content(machine.path) == before
    assert "no changes since generation 1" in capsys.readouterr().out


def test_a_change_makes_a_new_generation(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    identity = read_store_id(str(machine.path / "persistent"))
    capsys.readouterr()
    machine.write(MAIN, SOUND.replace('"/var/log"', '"/var/lib/new"'))
    assert apply(machine, "--yes") == 0
    assert stores.generation(machine.path / "persistent") == 2
    assert read_store_id(str(machine.path / "persistent")) == identity
    changes = [li for li in capsys.readouterr().out.splitlines() if li.startswith(("  + ", "  - "))]
    assert any(line.startswith("  - ") and "/var/log" in line for line in changes)
    assert any(line.startswith("  + ") and "/var/lib/new" in line for line in changes)
    assert not any("/etc/machine-id" in line for line in changes)
    assert (machine.path / "persistent" / MAIN).read_text() != SOUND


def test_a_change_that_is_not_displayed_makes_a_new_generation(machine: MachineTree) -> None:
    assert apply(machine, "--yes") == 0
    machine.write(MAIN, SOUND.replace('type = "btrfs"', 'type = "btrfs"\ntimeout = 12'))
    assert apply(machine, "--yes") == 0
    assert stores.generation(machine.path / "persistent") == 2


def test_generations_never_go_back(machine: MachineTree) -> None:
    """The store knows a later generation than this root: another root was applied, or this one was
    restored.
    """
    assert apply(machine, "--yes") == 0
    stores.record(machine.path / "persistent", b"", 41)
    assert apply(machine, "--yes") == 0
    plan = plans.parse((machine.path / "etc/ephemeroot/plan.json").read_bytes())
    assert plan.generation == stores.generation(machine.path / "persistent") == 42


def test_a_damaged_record_is_repaired(
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
    announced = [line.strip() for line in lines[lines.index("steps:") + 1 :]]
    assert apply(machine, "--yes") == 0
    done = capsys.readouterr().out.splitlines()
    for line in announced:
        assert any(result.startswith(f"{line}: ") for result in done), line


def test_does_not_take_missing_input_for_yes(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(machine.path)
    assert apply(machine) == 2  # pytest's standard input is not a terminal
    assert "--yes" in capsys.readouterr().err
    assert content(machine.path) == before


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_asks_on_a_terminal(machine: MachineTree, answer: str, status: int) -> None:
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


def test_reports_mistakes_and_writes_nothing(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(MAIN, SOUND + 'colour = "red"\n')
    before = content(machine.path)
    assert apply(machine, "--yes") == 2
    assert "colour" in capsys.readouterr().err
    assert content(machine.path) == before


def test_refuses_to_run_twice_at_once(machine: MachineTree) -> None:
    folder = os.open(machine.path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert apply(machine, "--yes") == 3
    finally:
        os.close(folder)
    assert apply(machine, "--yes") == 0


def test_refuses_images_of_another_root(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(machine.path)
    assert cli.main(["apply", "--yes", "--root", str(machine.path)]) == 2
    assert "--no-images" in capsys.readouterr().err
    assert content(machine.path) == before


def test_apply_prints_json(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(machine, "--yes", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "ephemeroot-apply"
    assert document["generation"] == 1
    assert all(not step["result"].startswith("failed") for step in document["steps"])
