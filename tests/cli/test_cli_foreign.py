"""The verbs in a boot of a root that the plan does not name: nothing is applied or pruned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.hooks.guards import ownership
from ephemeroot.plan import foreign
from living_machine import LivingMachine, living_machine
from machine_tree import MAIN, MachineTree

WORDS = "systemd.volatile=overlay"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    with living_machine(tmp_path) as made:
        yield made


def recorded(root: Path, kind: str, boot_id: str = "") -> None:
    """The record that the wipe stage leaves in such a boot."""
    run = root / "run/ephemeroot"
    run.mkdir(parents=True, exist_ok=True)
    this = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = {"boot-id": boot_id or this, "kind": kind, "reason": "another root", "hint": "boot it"}
    (run / ownership.RECORD).write_text(json.dumps(record))


@pytest.mark.requires_loop
def test_status_reports_another_root_and_prune_refuses(machine: LivingMachine) -> None:
    for _ in range(2):
        assert machine.boot_by_the_stages() == [0, 0]
    before = machine.old()
    assert machine.boot_by_the_stages(WORDS) == [11, 11]
    content = machine.json("status")
    assert content["root"] == "foreign"
    assert WORDS in content["reason"]
    assert content["complaints"] == [], "it is not a failure"
    (first, *_) = machine.call("status").stdout.splitlines()
    assert first.startswith("this boot has another root and did not change it: ")
    pruned = machine.call("roots", "prune", "--yes")
    assert pruned.returncode == 1
    assert f"nothing is pruned: {WORDS} is on the kernel command line" in pruned.stderr
    assert machine.old() == before
    assert not (machine.root / "run/ephemeroot/wiped").exists()
    assert not (machine.root / "run/ephemeroot/copies").exists()
    assert machine.boot_by_the_stages() == [0, 0]
    assert machine.json("status")["root"] == "ephemeral"


@pytest.mark.parametrize("kind", [ownership.ROOT, ownership.LAYER, ownership.CRASH])
def test_apply_refuses_in_another_root(
    tree: MachineTree, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tree.path, kind)
    assert apply(tree) == 1
    assert "this boot has another root: another root" in capsys.readouterr().err
    assert not (tree.path / "etc/ephemeroot/plan.json").exists()


def test_apply_continues_in_another_subvolume_that_the_configuration_names(
    tree: MachineTree,
) -> None:
    recorded(tree.path, ownership.ROOT)
    text = (tree.path / MAIN).read_text()
    tree.write(MAIN, text.replace("[root.btrfs]\n", '[root.btrfs]\nsubvolume = "root"\n'))
    assert apply(tree) == 0
    recorded(tree.path, ownership.LAYER)
    assert apply(tree) == 1


def test_apply_continues_in_a_filesystem_that_was_created_again(tree: MachineTree) -> None:
    recorded(tree.path, ownership.FILESYSTEM)
    assert apply(tree) == 0


def test_ignores_the_record_of_another_boot(tree: MachineTree) -> None:
    recorded(tree.path, ownership.ROOT, "0" * 36)
    assert foreign.of_boot(tree.path) is None
    assert apply(tree) == 0


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def apply(tree: MachineTree) -> int:
    return cli.main(["apply", "--no-images", "--yes", "--root", str(tree.path)])
