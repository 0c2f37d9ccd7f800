"""The exclusive size of each old root, compared with btrfs-progs, on a real btrfs."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import btrfsutil
import pytest

from ephemeroot import terminal
from ephemeroot.wipers.btrfs import exclusive
from living_machine import DAY, NOON, LivingMachine, living_machine

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    with living_machine(tmp_path) as made:
        (made.disk.top / "base/usr/lib/library").write_bytes(os.urandom(300_000))
        yield made


def change(machine: LivingMachine, chance: random.Random) -> None:
    """A change that programs make to a root, with shared or with new data."""
    root, name = machine.root, f"f{chance.randrange(1 << 30)}"
    store = machine.root / "persistent"
    what = chance.randrange(7)
    if what == 0:
        (root / "etc" / name).write_bytes(os.urandom(chance.choice((100, 5000, 200_000))))
    elif what == 1:
        with open(root / "usr/lib/library", "r+b") as file:
            file.seek(chance.randrange(200_000))
            file.write(os.urandom(50_000))
    elif what == 2:  # shared with the store
        (root / name).write_bytes(os.urandom(100_000))
        subprocess.run(["cp", "--reflink=always", root / name, store / name], check=True)
    elif what == 3:
        (root / "etc" / name).write_bytes(os.urandom(60_000))
        os.link(root / "etc" / name, root / f"link-{name}")
    elif what == 4:
        btrfsutil.create_subvolume(str(root / f"nested-{name}"))
        (root / f"nested-{name}/deep").mkdir()
        (root / f"nested-{name}/deep/file").write_bytes(os.urandom(70_000))
    elif what == 5:
        (root / "usr/bin/tool").unlink(missing_ok=True)
    else:
        with open(root / f"sparse-{name}", "wb") as file:
            file.seek(1 << 30)
            file.write(os.urandom(8192))


def by_btrfs_progs(path: Path) -> int:
    done = subprocess.run(
        ["btrfs", "filesystem", "du", "-s", "--raw", path], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return int(done.stdout.splitlines()[-1].split()[1])


def measured(machine: LivingMachine, path: Path) -> tuple[int | None, bool]:
    """The size, and whether the tree named the entries that can differ."""
    top, fd = os.open(machine.disk.top, os.O_RDONLY), os.open(path, os.O_RDONLY)
    try:
        quick = exclusive._written(top, fd) is not None
        return exclusive.measure(top, fd, time.monotonic() + 60), quick
    finally:
        os.close(fd)
        os.close(top)


@pytest.mark.parametrize("base_changes", [False, True])
def test_measures_old_roots_like_btrfs_progs(machine: LivingMachine, base_changes: bool) -> None:
    chance = random.Random(22)
    machine.boot()
    for number in range(1, 5):
        for _ in range(12):
            change(machine, chance)
        machine.boot(NOON + number * DAY)
    if base_changes:
        (machine.disk.top / "base/usr/lib/library").write_bytes(os.urandom(300_000))
    machine.disk.sync()
    entries = {e["name"]: e for e in machine.json("roots", "list")["histories"][0]["entries"]}
    assert len(entries) == 4
    for name in machine.old():
        path = machine.disk.top / "old_roots" / name
        expected = by_btrfs_progs(path)
        assert expected > 100_000
        assert measured(machine, path) == (expected, not base_changes)
        assert entries[name]["exclusive"] == expected
        assert machine.json("roots", "show", name)["exclusive"] == expected


def test_the_list_shows_sizes_to_people(machine: LivingMachine) -> None:
    machine.boot()
    (machine.root / "etc/large").write_bytes(os.urandom(3 << 20))
    machine.boot(NOON + DAY)
    machine.disk.sync()
    shown = machine.call("roots", "list").stdout
    assert re.search(r"\.keep +(\d+ \w+)? +3\.0 MiB  marked \.keep", shown), shown
    assert "  3.0 MiB in total, without data that several share" in shown
    assert "exclusive data    3.0 MiB" in machine.call("roots", "show", *machine.old()).stdout


def test_shows_no_size_if_measuring_takes_too_long(machine: LivingMachine) -> None:
    machine.boot()
    machine.boot(NOON + DAY)
    top = os.open(machine.disk.top, os.O_RDONLY)
    fd = os.open(machine.disk.top / "old_roots" / machine.old()[0], os.O_RDONLY)
    assert exclusive.measure(top, fd, time.monotonic() - 1) is None
    os.close(fd)
    os.close(top)


@pytest.mark.parametrize(
    ("made", "retired", "flags", "age"),
    [
        (NOON, NOON + 3 * 3600, "", 3 * 3600.0),
        (NOON, NOON + DAY, ".keep", float(DAY)),
        (100.0, NOON, "", None),  # made before the clock was set
        (NOON, 10, ".unsynced", None),  # retired before the clock was set
        (NOON, NOON - 60, "", None),
    ],
)
def test_only_a_trusted_clock_gives_the_duration_of_a_root(
    made: float, retired: int, flags: str, age: float | None
) -> None:
    from ephemeroot.cli.roots import look
    from ephemeroot.wipers import oldroot
    from ephemeroot.wipers.oldroot import Facts

    text = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(retired)) + flags
    entry = oldroot.classify(text, 300)
    facts = Facts(made=made, state="boot-complete")
    content = {**look.to_json("old_roots/x", entry, facts), "kept-for": []}
    assert content["age"] == age
    rows = {row[0]: row[1] for row in look.rows(content, entry, facts)}
    expected = "not known" if age is None else terminal.duration(age)
    assert rows["was the root for"].startswith(expected)
    json.dumps(content)
