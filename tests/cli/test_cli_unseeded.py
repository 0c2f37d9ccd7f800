"""Everything that could not be seeded: how ``status``, ``roots`` and ``adopt`` show it and resolve
it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from complete_boot import mark_boot_complete
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.store import unseeded
from ephemeroot.wipers.btrfs import Btrfs
from living_machine import STORE, LivingMachine, living_machine

pytestmark = pytest.mark.requires_loop

UID = 4242


class Machine(LivingMachine):
    """The plan declares root's directory and a user's file for the second boot."""

    declared: tuple[Operation, ...] = ()

    def plan(self, *more: Operation) -> Plan:
        plan = super().plan(*self.declared, *more)
        plan.seed_limit = 1 << 20
        return plan


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    """After a boot that could seed neither a file in a directory of root nor a file of a user."""
    with living_machine(tmp_path) as made:
        made.__class__ = Machine
        assert isinstance(made, Machine)
        made.boot_by_the_stages()
        subprocess.run(["mount", "-o", "remount,rw", made.root], check=True)
        people = made.root / "srv/people"
        people.mkdir(parents=True)
        (people / "thesis").write_text("years of work\n")
        unseedable(people / "large")
        rc = made.root / "home/u/.rc"
        unseedable(rc)
        os.chown(rc, UID, UID)
        assert mark_boot_complete(Btrfs(made.settings), made.root)
        made.declared = (
            Directory(path="/srv/people", store=STORE, source="srv/people"),
            Parent(path="/home", store=STORE, source="home"),
            Parent(path="/home/u", store=STORE, source="home/u", user=UID, group=UID),
            Copy(path="/home/u/.rc", store=STORE, source="home/u/.rc"),
        )
        plan = made.plan().dump()
        (made.disk.top / "base/etc/ephemeroot/plan.json").write_bytes(plan)
        codes = made.boot_by_the_stages()
        assert codes == [10, 10]
        subprocess.run(["mount", "-o", "remount,rw", made.root], check=True)
        yield made


def unseedable(path: Path) -> None:
    """A file without checksums: the store cannot share its data, and it is too large to copy."""
    found = ["findmnt", "--noheadings", "--output", "TARGET", "--target", str(path.parent)]
    point = subprocess.run(found, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["mount", "-o", "remount,nodatasum", point], check=True)
    with path.open("wb") as content:
        for _ in range(5):
            content.write(os.urandom(1 << 20))
        os.fsync(content.fileno())
    subprocess.run(["mount", "-o", "remount,datasum", point], check=True)


def name_of(machine: LivingMachine) -> str:
    (name,) = [name for name in machine.old() if (machine.disk.top / "old_roots" / name /
                                                  "srv/people/large").exists()]  # fmt: skip
    assert name.endswith(".keep")
    return name.removesuffix(".keep")


def record(machine: LivingMachine) -> Path:
    return machine.root / STORE[1:] / unseeded.RECORD


def test_status_reports_an_unseeded_path_until_it_is_resolved(machine: LivingMachine) -> None:
    name = name_of(machine)
    done = machine.call("status", "--json")
    assert done.returncode == 10
    shown = {one["path"]: one for one in json.loads(done.stdout)["unseeded"]}
    assert shown["/srv/people"]["in-effect"]
    assert [one["path"] for one in shown["/srv/people"]["left-out"]] == ["large"]
    assert not shown["/home/u/.rc"]["in-effect"]
    assert {one["old-root"] for one in shown.values()} == {name}
    said = machine.call("status").stdout
    assert "not seeded" in said
    assert "/home/u/.rc could not be seeded" in said
    assert f"roots unkeep {name}" in said
    unkept = machine.call("roots", "unkeep", name)
    assert unkept.returncode == 0, unkept.stderr
    assert "stop reporting that /srv/people was seeded without large" in unkept.stdout
    assert not record(machine).exists()
    assert machine.json("roots", "list")["histories"][0]["entries"]
    assert "not seeded" not in machine.call("status").stdout
    assert name in machine.old()


def test_the_list_says_why_an_old_root_is_kept(machine: LivingMachine) -> None:
    name = f"{name_of(machine)}.keep"
    (history,) = machine.json("roots", "list")["histories"]
    (entry,) = [one for one in history["entries"] if one["name"] == name]
    assert any("/srv/people was seeded without large" in line for line in entry["kept-for"])
    assert "seeded without large" in machine.call("roots", "list").stdout
    assert "seeded without large" in machine.call("roots", "show", name).stdout
    others = [one for one in history["entries"] if one["name"] != name]
    assert all(one["kept-for"] == [] for one in others)


def test_a_dry_run_changes_nothing(machine: LivingMachine) -> None:
    name, before = name_of(machine), record(machine).read_bytes()
    done = machine.call("roots", "unkeep", "--dry-run", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not done: dry run") == 3
    assert record(machine).read_bytes() == before
    assert name_of(machine) == name


def test_the_record_of_a_deleted_old_root_can_be_removed(machine: LivingMachine) -> None:
    name = name_of(machine)
    subprocess.run(
        ["btrfs", "subvolume", "delete", machine.disk.top / "old_roots" / f"{name}.keep"],
        check=True, capture_output=True,
    )  # fmt: skip
    done = machine.call("roots", "unkeep", name)
    assert done.returncode == 0, done.stderr
    assert not record(machine).exists()
    assert machine.call("roots", "unkeep", name).returncode == 2


def test_a_restored_path_is_in_effect_after_copying_it_back(machine: LivingMachine) -> None:
    """The line that the boot prints, then copying back: the path persists again."""
    name = name_of(machine)
    restored = machine.call("roots", "restore", "/home/u/.rc", "--from", name)
    assert restored.returncode in (0, 10), restored.stderr
    assert (machine.root / "home/u/.rc").stat().st_size == 5 << 20


def test_a_damaged_record_hides_nothing_else(machine: LivingMachine) -> None:
    record(machine).write_text("[" * 100000)
    done = machine.call("status")
    assert done.returncode == 10
    assert "Traceback" not in done.stderr
    assert "unseeded in the store /persistent is damaged" in done.stdout
    listed = machine.call("roots", "list")
    assert listed.returncode == 0
    assert "is damaged" in listed.stderr
    shutil.move(record(machine), machine.root / "aside")
    assert "is damaged" not in machine.call("status").stdout
