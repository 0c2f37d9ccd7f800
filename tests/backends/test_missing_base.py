"""Every verb that depends on the base reports a missing one; on a real btrfs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btrfs_image import Disk, btrfsutil, fresh_disk
from ephemeroot import cli
from machine_tree import DEVICE, MAIN, MachineTree
from machine_tree import SOUND as PLAIN

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

HINT = "run 'ephemeroot base create'"


class Machine(MachineTree):
    """A machine on its own btrfs, whose base does not exist yet."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        for name in ("root", "persistent"):
            btrfsutil.create_subvolume(str(disk.top / name))
        root.mkdir()
        for name, where in (("root", root), ("persistent", root / "persistent")):
            where.mkdir(exist_ok=True)
            subprocess.run(["mount", "-o", f"subvol={name}", disk.loop, where], check=True)
        sound = PLAIN.replace(DEVICE, disk.loop)
        named = f'[root.btrfs]\ndevice = "{disk.loop}"\nsubvolume = "root"\n'
        super().__init__(root, sound.replace("[root.btrfs]\n", named))
        self.write("etc/fstab", f"{disk.loop} / btrfs subvol=root 0 0\n")

    def make_base(self) -> None:
        """A snapshot of the root, as ``base create`` makes it."""
        btrfsutil.create_snapshot(str(self.disk.top / "root"), str(self.disk.top / "root-base"))

    def remove_base(self) -> None:
        """Remove the base."""
        btrfsutil.delete_subvolume(str(self.disk.top / "root-base"))

    def run(self, *words: str) -> int:
        """Run the program and return its exit code."""
        return cli.main([*words, "--root", str(self.path)])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path) as disk:
        made = Machine(disk, tmp_path / "machine")
        yield made
        subprocess.run(["umount", "-R", made.path], check=True)


def nothing(machine: Machine) -> None:
    assert not (machine.disk.top / "root-base").exists()


def directory(machine: Machine) -> None:
    (machine.disk.top / "root-base").mkdir()


STATES: dict[str, tuple[Callable[[Machine], None], str]] = {
    "missing": (nothing, "the base root-base does not exist: no boot can make a new /"),
    "directory": (directory, "the base root-base is not a subvolume: no boot can make a new /"),
}


@pytest.mark.parametrize("state", STATES)
def test_check_apply_and_status_name_a_missing_base(
    machine: Machine, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.make_base()
    assert machine.run("apply", "--yes", "--no-images") == 0
    machine.remove_base()
    make, reason = STATES[state]
    make(machine)
    capsys.readouterr()
    machine.run("check", "--json")
    problems = json.loads(capsys.readouterr().out)["problems"]
    (found,) = [problem for problem in problems if problem["reason"] == reason]
    assert (found["key"], found["hint"]) == ("root.btrfs.base", HINT)
    assert machine.run("status") == 10
    assert f"{reason} ({HINT})" in capsys.readouterr().out
    plan = (machine.path / "etc/ephemeroot/plan.json").read_bytes()
    for words in (["--yes"], ["--dry-run"]):
        assert machine.run("apply", "--no-images", *words) == 1
        said = capsys.readouterr().err
        assert reason in said
        assert HINT in said
    assert (machine.path / "etc/ephemeroot/plan.json").read_bytes() == plan


def test_no_verb_complains_about_an_existing_base(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.make_base()
    assert machine.run("apply", "--yes", "--no-images") == 0
    machine.run("check")
    machine.run("status")
    captured = capsys.readouterr()
    assert "base create" not in captured.out + captured.err


def test_no_verb_complains_about_a_base_for_roots_that_begin_empty(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (machine.path / MAIN).read_text().replace('base = "root-base"\n', "")
    usr = text + (
        f'[[volumes]]\nmount-point = "/usr"\ndevice = "{machine.disk.loop}"\ntype = "btrfs"\n'
        'options = ["subvol=usr"]\n'
    )
    machine.write(MAIN, usr)
    machine.run("check")
    assert "base create" not in capsys.readouterr().out


def test_diff_before_the_first_boot_compares_with_the_base(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.make_base()
    assert machine.run("apply", "--yes", "--no-images") == 0
    machine.write("opt/new", "x")
    capsys.readouterr()
    assert machine.run("diff") == 0
    captured = capsys.readouterr()
    assert "this root was not made from the base root-base" in captured.err
    assert "/opt/new" in captured.out
    assert "/etc/fstab" not in captured.out
    assert machine.run("diff", "--json") == 0
    assert json.loads(capsys.readouterr().out)["against"] == "base"


def test_diff_without_a_base_prints_the_command_that_creates_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.make_base()
    assert machine.run("apply", "--yes", "--no-images") == 0
    machine.remove_base()
    capsys.readouterr()
    assert machine.run("diff") == 1
    captured = capsys.readouterr()
    assert "the base root-base does not exist" in captured.err
    assert HINT in captured.err
    assert captured.out == ""
