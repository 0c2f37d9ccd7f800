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

    def make_whole(self) -> None:
        """Add what each root must have to boot."""
        self.write("usr/lib/os-release", "ID=debian\n")
        self.write("usr/lib/systemd/systemd", "#!/bin/sh\n")
        (self.path / "usr/lib/systemd/systemd").chmod(0o755)

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


def test_create_makes_the_base_of_a_system_below_a_directory(machine: Machine) -> None:
    """A system that is being built has a base before its first boot."""
    machine.make_whole()
    machine.write("etc/hostname", "built\n")
    assert machine.run("apply", "--yes", "--no-images") == 1
    assert machine.run("base", "create", "--dry-run") == 0
    assert not (machine.disk.top / "root-base").exists()
    assert machine.run("base", "create") == 0
    base = machine.disk.top / "root-base"
    assert btrfsutil.is_subvolume(str(base))
    assert (base / "etc/hostname").read_text() == "built\n"
    assert machine.run("apply", "--yes", "--no-images") == 0
    assert machine.run("base", "create") == 2, "there is one already"


def test_create_takes_the_mounts_below_the_directory_for_those_of_the_machine(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """/usr is a volume: the proof of the base finds it below the directory, and not on this
    machine, whose mounts are elsewhere.
    """
    machine.make_whole()
    release = machine.path / "usr/lib/os-release"
    usr = machine.disk.top / "usr"
    btrfsutil.create_subvolume(str(usr))
    subprocess.run(["cp", "-a", f"{machine.path}/usr/.", usr], check=True)
    subprocess.run(["rm", "-r", f"{machine.path}/usr"], check=True)
    (machine.path / "usr").mkdir()
    assert machine.run("base", "create") == 1
    assert "/usr/lib/os-release" in capsys.readouterr().err
    subprocess.run(
        ["mount", "-o", "subvol=usr", machine.disk.loop, machine.path / "usr"], check=True
    )
    assert release.exists()
    assert machine.run("base", "create") == 0
    assert list((machine.disk.top / "root-base/usr").iterdir()) == []


def test_another_subvolume_at_the_directory_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (machine.path / MAIN).read_text()
    machine.write(MAIN, text.replace('subvolume = "root"', 'subvolume = "persistent"'))
    assert machine.run("base", "create") == 1
    assert f"{machine.path} is not the subvolume 'persistent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("base", "run", "--yes", "--", "true"),
        ("base", "commit", "--yes", "/etc/hostname"),
        ("upgrade", "--yes"),
        ("install", "--yes", "x"),
        ("remove", "--yes", "x"),
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_no_command_runs_in_the_base_of_a_machine_below_a_directory(
    machine: Machine, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    machine.make_base()
    option = ("--root", str(machine.path))
    assert cli.main([*option, *words]) == 1
    assert "no command can run in the base of the machine at" in capsys.readouterr().err
