"""Content that cannot be seeded: every cell of the table of docs/persistence.md, on real
filesystems.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

import proof
from ephemeroot.hooks import limits
from ephemeroot.hooks.omission import Omission
from ephemeroot.hooks.store import unseeded
from seeding_machine import (
    DEADLINE,
    LIMIT,
    SINGLE,
    UID,
    WHOLE,
    WIPERS,
    SeedingMachine,
    seeding_machine,
)

pytestmark = pytest.mark.requires_loop

KINDS = ("directory", "bind", "copy")

TABLE = [
    (wiper, failure, kind, users)
    for wiper, failure, kind, users in itertools.product(
        WIPERS, (*WHOLE, *SINGLE, *DEADLINE), KINDS, (False, True)
    )
    if not (failure == "depth" and kind != "directory")
]


def prepare(machine: SeedingMachine, failure: str) -> None:
    """Run a boot in which the path gets its content; the next boot's plan declares it."""
    machine.first_boot()
    bad = machine.content()
    machine.spoil(failure, bad)
    machine.live()
    machine.declared = True
    machine.strike(failure)


def expected(wiper: str, failure: str, kind: str, users: bool) -> str:
    """``kept``: nothing is wiped. ``rest``: seeded except for the failed entries. ``nothing``:
    wiped, and the store lacks the whole path.
    """
    if wiper in ("unmarked", "kept") or failure in WHOLE:
        return "kept"
    if failure in DEADLINE:
        return "nothing" if users else "kept"
    if kind == "directory":
        return "rest"
    return "nothing" if users else "kept"


@pytest.mark.parametrize(
    ("wiper", "failure", "kind", "users"),
    proof.sample(TABLE, 12),
    ids=lambda value: {True: "user", False: "root"}.get(value, value),
)
def test_each_cell_of_the_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wiper: str,
    failure: str,
    kind: str,
    users: bool,
) -> None:
    with seeding_machine(tmp_path, wiper, failure, kind=kind, users=users) as machine:
        prepare(machine, failure)
        if failure == "deadline":
            monkeypatch.setattr(limits, "SEEDING", 0.0)
            monkeypatch.setattr(limits, "PERSISTENCE", 0.0)
        outcome = expected(wiper, failure, kind, users)
        wiped, persisted = machine.boot()
        assert persisted in (0, 10)
        # Nothing is lost, and the store has the original content.
        previous = machine.previous()
        assert previous.exists()
        if kind == "directory":
            assert len(list(previous.glob("good*"))) == 5
        if outcome == "rest":
            assert_rest_is_seeded(machine, failure)
        else:
            assert not os.path.lexists(machine.stored), "nothing was made in its place"
            assert not os.path.ismount(machine.target / machine.path[1:])
        if outcome == "kept":
            # The root below a layer never boots instead: its layer is in memory.
            assert wiped == {"kept": 0, "overlay": 12}.get(wiper, 10)
            assert machine.old() == []
            assert_said(machine, "persist", failure)
            if wiper != "kept":
                assert_said(machine, "wipe", failure)
                result = machine.report("wipe")["result"]
                said = "the layer is in memory: " if wiper == "overlay" else "failed: "
                assert str(result).startswith(said)
            return
        assert wiped == 10
        assert_kept(machine, failure)
        assert_stays_so(machine, outcome)


def assert_said(machine: SeedingMachine, stage: str, failure: str) -> None:
    said = machine.said(stage)
    if failure == "read-only":
        # Its parent directories cannot be created either.
        assert "/persistent" in said
        return
    assert machine.path in said, said
    if machine.wiper == "overlay" and stage == "persist":
        assert "is not in effect in this boot" in said
    if failure in DEADLINE:
        assert f"adopt {machine.path}" in said


def assert_rest_is_seeded(machine: SeedingMachine, failure: str) -> None:
    stored = machine.stored
    assert sorted(p.name for p in stored.glob("good*")) == [f"good{n}" for n in range(5)]
    assert (stored / "good0").read_text() == "years of work\n"
    assert (stored / "eve/bad").exists() == (failure == "depth")
    assert os.path.ismount(machine.target / machine.path[1:])
    assert (stored / "good0").stat().st_uid == (UID if machine.users else 0)


def assert_kept(machine: SeedingMachine, failure: str) -> None:
    """The old root is marked as kept, and the record in the store says why."""
    old = machine.old()
    assert len(old) == 1
    assert old[0].endswith(".keep")
    omission = records(machine)[0]
    assert omission.path == machine.path
    assert omission.root == old[0].removesuffix(".keep")
    assert omission.retired
    said = machine.said("wipe")
    assert omission.describe() in said
    assert f"roots unkeep {omission.root}" in said
    if machine.kind == "directory" and failure in ("size", "attribute", "bound"):
        assert [name for name, _ in omission.files] == ["eve/bad"]


def kept(machine: SeedingMachine) -> list[str]:
    """The old roots marked as kept, by their names without the mark."""
    return [name.removesuffix(".keep") for name in machine.old() if name.endswith(".keep")]


def records(machine: SeedingMachine) -> list[Omission]:
    fd = os.open(machine.store, os.O_RDONLY)
    try:
        return unseeded.read(fd, "/persistent")
    finally:
        os.close(fd)


def assert_stays_so(machine: SeedingMachine, outcome: str) -> None:
    """In the following boots the path is still only in the old root, or still seeded; no other root
    is kept.
    """
    for _ in range(2):
        machine.live()
        assert machine.boot()[0] in (0, 10)
        assert kept(machine) == [records(machine)[0].root]
        assert [one.path for one in records(machine)] == [machine.path]
        if outcome == "nothing":
            assert not os.path.lexists(machine.stored)
            assert f"{machine.path} is not in effect" in machine.said("persist")
        else:
            assert (machine.target / machine.path[1:] / "good0").exists()


@pytest.mark.parametrize(
    ("wiper", "kind"),
    [case for case in itertools.product(WIPERS, KINDS) if case[0] != "kept"],
)
def test_a_dry_run_describes_the_seeding_of_a_wipe_and_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], wiper: str, kind: str
) -> None:
    with seeding_machine(tmp_path, wiper, "none", kind=kind, users=True) as machine:
        prepare(machine, "none")
        before = [everything(machine.store), everything(machine.top)]
        assert machine.stage("wipe", "--dry-run") == 0
        said = capfd.readouterr().err
        line = f"seed {machine.path} into the store /persistent, if the previous root has it"
        assert line in said
        assert said.index("create /home/u in the store") < said.index(line)
        assert [everything(machine.store), everything(machine.top)] == before
        assert not (machine.run / "boot.json").exists()
        assert machine.boot()[0] == 0
        operations: list[dict[str, str]] = machine.report("wipe")["operations"]  # type: ignore[assignment]
        assert [
            one for one in operations
            if machine.path in one["line"] and one["result"].startswith("seeded")
        ]  # fmt: skip
        capfd.readouterr()
        machine.live()
        assert machine.stage("wipe", "--dry-run") == 0
        assert "seed " not in capfd.readouterr().err, "the store has it by now"


def everything(top: Path) -> list[tuple[str, int, int]]:
    """All entries below *top*, with their times of change."""
    found = [(str(path), path.lstat()) for path in sorted(top.rglob("*"))]
    return [(name, status.st_ino, status.st_ctime_ns) for name, status in found]


def test_a_missing_path_is_seeded_again_after_unkeep(tmp_path: Path) -> None:
    """``roots unkeep`` removes the record: the administrator no longer needs the old root."""
    with seeding_machine(tmp_path, "btrfs", "size", kind="copy", users=True) as machine:
        prepare(machine, "size")
        machine.boot()
        machine.live()
        fd = os.open(machine.store, os.O_RDONLY)
        root = records(machine)[0].root
        assert unseeded.forget(fd, "/persistent", target="/", root=root) == 1
        os.close(fd)
        assert not (machine.store / unseeded.RECORD).exists()
        machine.boot()
        assert machine.said("persist") == ""
        assert machine.report("persist")["operations"][-1]["result"] == "nothing to copy yet"  # type: ignore[index]


@pytest.mark.parametrize("users", [False, True], ids=["root", "user"])
def test_a_copied_file_that_became_too_large_keeps_the_old_root(
    tmp_path: Path, users: bool
) -> None:
    """The store has the earlier version; only the old root has the present one."""
    with seeding_machine(tmp_path, "btrfs", "none", kind="copy", users=users) as machine:
        prepare(machine, "none")
        machine.boot()
        assert machine.stored.read_text() == "years of work, too\n"
        subprocess.run(["mount", "-o", "remount,rw", machine.target], check=True)
        copied = machine.target / machine.path[1:]
        copied.write_bytes(os.urandom(LIMIT + 1))
        now = copied.read_bytes()
        machine.live()
        assert machine.boot()[0] == 10
        assert "larger than the seed limit" in machine.said("wipe")
        assert kept(machine) == [records(machine)[0].root]
        name = f"{records(machine)[0].root}.keep"
        assert (machine.history / name / machine.path[1:]).read_bytes() == now
        assert machine.stored.read_text() == "years of work, too\n"
        assert (machine.target / machine.path[1:]).read_text() == "years of work, too\n"


def test_seeds_the_content_of_the_next_root_and_keeps_the_old_root(tmp_path: Path) -> None:
    """The path was not in effect, and the user has written there since: that content is seeded."""
    with seeding_machine(tmp_path, "btrfs", "size", kind="bind", users=True) as machine:
        prepare(machine, "size")
        machine.boot()
        assert not os.path.lexists(machine.stored)
        subprocess.run(["mount", "-o", "remount,rw", machine.target], check=True)
        (machine.target / machine.path[1:]).write_text("begun anew\n")
        machine.live()
        machine.boot()
        assert machine.stored.read_text() == "begun anew\n"
        assert (machine.target / machine.path[1:]).read_text() == "begun anew\n"
        assert kept(machine) == [records(machine)[0].root]
        assert [one.path for one in records(machine)] == [machine.path]


def test_a_user_cannot_cause_every_root_to_be_kept(tmp_path: Path) -> None:
    with seeding_machine(tmp_path, "btrfs", "size", kind="copy", users=True) as machine:
        prepare(machine, "size")
        for _ in range(3):
            machine.boot()
            subprocess.run(["mount", "-o", "remount,rw", machine.target], check=True)
            path = machine.target / machine.path[1:]
            path.touch()
            os.truncate(path, 17 << 40)
            machine.live()
        assert len(machine.old()) == 3
        assert kept(machine) == [records(machine)[0].root]


def test_a_power_cut_after_seeding_keeps_the_root_in_the_next_boot(tmp_path: Path) -> None:
    """The store already has the rest, so nothing is seeded again: the record requires it."""
    with seeding_machine(tmp_path, "btrfs", "size", kind="directory", users=False) as machine:
        prepare(machine, "size")
        machine.attribute = "seeding_machine:Interrupted"
        machine.stage("wipe")
        assert machine.old() == []
        assert (machine.stored / "good0").exists()
        machine.switch_off()
        machine.attribute = ""
        machine.boot()
        assert [name[-5:] for name in machine.old()] == [".keep"]
        assert [one.retired for one in records(machine)] == [True]


def test_seeds_content_that_fits_into_a_users_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeding_machine(tmp_path, "btrfs", "deadline", kind="directory", users=True) as machine:
        machine.first_boot()
        machine.content()
        many = machine.target / machine.path[1:] / "many"
        many.mkdir()
        for number in range(4000):
            (many / str(number)).touch()
        subprocess.run(["chown", "-R", f"{UID}:{UID}", many.parent], check=True)
        machine.live()
        machine.declared = True
        monkeypatch.setattr(limits, "ENTRIES", 1500)
        wiped, _ = machine.boot()
        assert wiped == 10
        assert os.path.ismount(machine.target / machine.path[1:])
        assert len(list(machine.stored.rglob("*"))) <= 1500
        assert (machine.stored / "good0").exists() or not list(machine.stored.glob("good*"))
        assert "left out" in machine.said("wipe")
        assert machine.old()[0].endswith(".keep")
