"""Subvolumes of the live root that no declaration covers: a warning for each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import btrfsutil
import pytest

from btrfs_image import fresh_disk, mounted
from ephemeroot.cli import main
from ephemeroot.config import nested
from machine_tree import MAIN, SOUND, MachineTree

pytestmark = pytest.mark.requires_loop

PROGRAM = Path(sys.executable).parent / "ephemeroot"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[MachineTree]:
    """A machine whose root is a btrfs subvolume."""
    with fresh_disk(tmp_path) as disk:
        btrfsutil.create_subvolume(str(disk.top / "root"))
        with mounted(disk.loop, tmp_path / "machine", "subvol=root") as root:
            yield MachineTree(root)


def make(tree: MachineTree, *names: str) -> None:
    for name in names:
        path = tree.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        btrfsutil.create_subvolume(str(path))


def complaints(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["check", "--root", str(tree.path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "root.btrfs: " in line]
    return [line.partition("root.btrfs: ")[2].split(" is ")[0] for line in lines]


def test_warns_of_each_uncovered_subvolume(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tree, "var/lib/machines", "var/lib/machines/in it", "var/log/journal", "persistent/x")
    assert complaints(tree, capsys) == ["/var/lib/machines", "/var/lib/machines/in it"]
    more = SOUND.replace('["/var/log"]', '["/var/log", "/var/lib/machines"]')
    tree.write(MAIN, more)
    assert complaints(tree, capsys) == []


@pytest.mark.parametrize("number", [1, nested.FEW, nested.FEW + 1, 12])
def test_groups_many_subvolumes_of_one_directory(
    tree: MachineTree, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    where = "/var/lib/docker/btrfs/subvolumes"
    names = [f"{where}/{index:02}" for index in range(number)]
    make(tree, *(name[1:] for name in names), "srv/data")
    assert main(["check", "--root", str(tree.path)]) == 0
    said = capsys.readouterr().out
    assert ("/srv/data is an undeclared subvolume in the root" in said) is True
    if number > nested.FEW:
        assert f"{number} subvolumes in {where} are undeclared in the root" in said
        assert f'declare "{where}"' in said
        assert not any(name in said for name in names)
    else:
        assert all(f"{name} is an undeclared subvolume in the root" in said for name in names)


def test_a_declared_file_does_not_cover_a_subvolume(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tree, "srv/data")
    tree.write(MAIN, SOUND.replace('"/etc/machine-id"', '"/etc/machine-id", "/srv/data"'))
    assert main(["check", "--root", str(tree.path)]) == 2
    said = capsys.readouterr().out
    assert "/srv/data is declared as a file, but is a directory" in said
    assert "/srv/data is an undeclared subvolume in the root" in said


def test_does_not_warn_without_nested_subvolumes(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaints(tree, capsys) == []


@pytest.mark.requires_program("setpriv")
def test_a_user_without_permission_gets_an_error(tree: MachineTree) -> None:
    make(tree, "srv/data")
    done = subprocess.run(
        [
            "setpriv", "--bounding-set=-sys_admin", PROGRAM, "check", "--root", tree.path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "undeclared subvolumes\n  hint: run it as root\n" in done.stdout
    assert "srv/data" not in done.stdout
