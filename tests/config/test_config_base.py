"""Declared paths are resolved in the base, from which the next boot makes its root."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import proof
from ephemeroot.config import Machine, Problem, examine, read
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.wipers.history import lock
from nested_machine import DeclaredMachine, declared_machine, persistence

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

WAYS = ("missing", "directory", "relative", "absolute", "dangling")
"""The file that a root has at a directory on the way to a declared path."""

ENTRIES = ("bind", "symlink", "copy")


@dataclass(frozen=True)
class Cell:
    """A declared path with a parent directory that differs between the roots: the *live* one, the
    *base*, and the base after its next upgrade (*later*).
    """

    live: str
    base: str
    later: str
    entry: str
    number: int = field(default=0, compare=False)

    @property
    def top(self) -> str:
        return f"/ways/{self.number:03}"

    def path(self, way: str) -> str:
        """The declared path in a root with that *way*."""
        real = {"relative": "real", "absolute": "other", "dangling": "gone"}.get(way, "way")
        return f"{self.top}/{real}/thing"

    def put(self, root: Path, way: str) -> None:
        """Give *root* that *way*, and remove the previous one."""
        top = root / self.top[1:]
        place = top / "way"
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        for name in ("real", "other"):
            (top / name).mkdir(parents=True, exist_ok=True)
        if way == "directory":
            place.mkdir()
        elif way != "missing":
            place.symlink_to({"relative": "real", "absolute": f"{self.top}/other"}.get(way, "gone"))

    def declaration(self) -> str:
        kind = "file" if self.entry == "copy" else "directory"
        return f'{{ {kind} = "{self.top}/way/thing", method = "{self.entry}" }}'

    def content(self, root: Path, way: str) -> Path:
        """The file in which a program keeps its data, as seen in that *root*."""
        place = root / self.path(way)[1:]
        if self.entry == "copy":
            return place
        if place.is_symlink():
            place = root / os.readlink(place)[1:]
        return place / "data"


TABLE = [Cell(*combination) for combination in itertools.product(WAYS, WAYS, WAYS, ENTRIES)]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[DeclaredMachine]:
    with declared_machine(tmp_path) as machine:
        yield machine


def problems(machine: DeclaredMachine) -> list[Problem]:
    found = Machine.of(str(machine.target))
    return list(examine(read(found), found).problems)


def plan(machine: DeclaredMachine) -> dict[str, Directory | Copy]:
    found = plans.load(str(machine.folder / "plan.json"))
    return {o.path: o for o in found.persist if isinstance(o, Directory | Copy)}


def declare(machine: DeclaredMachine, cells: list[Cell]) -> None:
    directories = [cell.declaration() for cell in cells if cell.entry != "copy"]
    files = [cell.declaration() for cell in cells if cell.entry == "copy"]
    machine.declare(persistence(*directories, files=", ".join(['"/etc/machine-id"', *files])))


def test_the_plan_is_made_for_the_root_that_the_next_boot_makes(machine: DeclaredMachine) -> None:
    cells = [
        Cell(c.live, c.base, c.later, c.entry, number)
        for number, c in enumerate(proof.sample(TABLE, 40, seed=3))
    ]
    for cell in cells:
        cell.put(machine.target, cell.live)
        cell.put(machine.top / "base", cell.base)
        if cell.live in ("directory", "relative", "absolute"):
            cell.content(machine.target, cell.live).parent.mkdir(parents=True, exist_ok=True)
            cell.content(machine.target, cell.live).write_text("live")
    declare(machine, cells)
    said = [str(problem) for problem in problems(machine)]
    for cell in cells:
        warned = [line for line in said if f"{cell.top}/" in line]
        assert len(warned) == (cell.path(cell.live) != cell.path(cell.base)), (cell, warned)
        assert all(cell.path(way) in warned[0] for way in (cell.live, cell.base) if warned)
    machine.apply()
    for cell in cells:
        assert cell.path(cell.base) in plan(machine), cell
    machine.next_boot()
    assert machine.said() == []
    for cell in cells:
        place = cell.content(machine.target, cell.base)
        # In the outgoing root, the path of the plan goes through other links.
        same = cell.path(cell.live) == cell.path(cell.base) or cell.path(cell.base) == cell.path("")
        assert place.exists() == (same and cell.live not in ("missing", "dangling")), cell
        lost = [line for line in said if f"does not seed from {cell.top}/" in line]
        assert bool(lost) == (not same), cell
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("kept")
    # Existing content of the store is used wherever the upgraded base has the path.
    for cell in cells:
        cell.put(machine.top / "base", cell.later)
    for number in range(2):
        machine.apply()
        machine.power_off(copy_back=number == 0)
        machine.boot()
        assert machine.said() == []
        for cell in cells:
            assert cell.content(machine.target, cell.later).read_text() == "kept", cell


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_refuses_another_type_in_the_base(machine: DeclaredMachine, kind: str) -> None:
    place = machine.top / "base/srv/thing"
    place.parent.mkdir()
    if kind == "directory":
        place.write_text("")
        machine.declare(persistence("/srv/thing", files='"/etc/machine-id"'))
    else:
        place.mkdir()
        machine.declare(persistence(files='"/etc/machine-id", "/srv/thing"'))
    (error,) = [problem for problem in problems(machine) if not problem.warning]
    other = {"directory": "file", "file": "directory"}[kind]
    assert error.reason == f"/srv/thing is declared as a {kind}, but is a {other} in the base"


def test_a_volume_and_a_declared_directory_are_resolved_in_the_live_root(
    machine: DeclaredMachine,
) -> None:
    """The base has no content below them, so links on the way are those of the live root."""
    live = machine.target / "srv/data"
    live.mkdir(parents=True)
    (live / "real").mkdir()
    (live / "way").symlink_to("real")
    machine.declare(persistence("/srv/data", "/srv/data/way/thing", files='"/etc/machine-id"'))
    for _ in range(2):
        machine.apply()
        assert "/srv/data/real/thing" in plan(machine)
        machine.next_boot()
        assert machine.said() == []


def test_reports_that_another_run_locks_the_base(
    machine: DeclaredMachine,
) -> None:
    machine.declare(persistence(files='"/etc/machine-id"'))
    old_roots = machine.top / "old_roots"
    old_roots.mkdir(exist_ok=True)
    before = {problem.reason for problem in problems(machine)}
    fd = os.open(old_roots, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(fd, "old_roots")
        (new,) = [p for p in problems(machine) if p.reason not in before]
    finally:
        os.close(fd)
    assert new.warning
    assert "cannot look up declared paths in the base" in new.reason
