"""A directory is declared that the store already has as the parent of other declared paths."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.hooks.parents import Parents
from nested_machine import DeclaredMachine, declared_machine, persistence

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

WHOLE = ("/etc", "/home", "/root", "/srv", "/var", "/opt")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[DeclaredMachine]:
    with declared_machine(tmp_path) as machine:
        for path in WHOLE:
            deep = machine.target / path[1:] / "deep/deeper"
            deep.mkdir(parents=True, mode=0o750)
            (deep / "file").write_text(path)
            (deep.parent.parent / "file").write_text(path)
        os.chown(machine.target / "srv", 5, 6)
        yield machine


def tree(top: Path) -> dict[str, tuple[int, int, int, str]]:
    """Owner, group, mode and content of everything below *top*, without our own records."""
    found = {}
    for path in [top, *top.rglob("*")]:
        name = str(path.relative_to(top))
        if name.startswith("ephemeroot"):
            continue
        status = path.lstat()
        text = path.read_text() if path.is_file() else ""
        found[name] = (status.st_uid, status.st_gid, status.st_mode, text)
    return found


@pytest.mark.parametrize("method", ["bind", "symlink"])
def test_directories_declared_before_the_first_apply_keep_their_content(
    machine: DeclaredMachine, method: str
) -> None:
    entries = [f'{{ directory = "{path}", method = "{method}" }}' for path in WHOLE]
    if method == "symlink":
        entries[WHOLE.index("/etc")] = '"/etc"'  # the stages of a boot read it
    machine.declare(persistence(*entries, files='"/etc/machine-id"'))
    before = {path: tree(machine.target / path[1:]) for path in WHOLE}
    machine.apply()
    for _ in range(2):
        machine.next_boot()
        assert machine.said() == []
        for path in WHOLE:
            found = tree(machine.target / "one" / path[1:])
            assert {n: found.get(n) for n in before[path]} == before[path]
            assert (machine.target / path[1:] / "file").is_file() or method == "symlink"
    assert (machine.target / "etc/ephemeroot/plan.json").is_file()


@pytest.mark.parametrize("path", WHOLE)
def test_seeds_a_parent_directory_when_it_is_declared(machine: DeclaredMachine, path: str) -> None:
    inner, link = f"{path}/deep/inner", f"{path}/deep/absent"
    machine.declare(persistence(inner, files=f'"/etc/machine-id", "{link}"'))
    machine.apply()
    machine.next_boot()
    (machine.target / inner[1:] / "note").write_text("mine")
    (machine.target / path[1:] / "deep/new").write_text("new")

    machine.declare(persistence(path, inner, files='"/etc/machine-id"'))
    machine.apply()
    machine.next_boot()
    place = machine.target / path[1:]
    assert place.is_mount()
    assert (place / "deep/new").read_text() == "new"
    assert (place / "deep/inner/note").read_text() == "mine"
    assert not os.path.lexists(machine.target / link[1:]), "a link into the store leads to itself"


def test_does_not_seed_a_directory_again_that_a_user_emptied(
    machine: DeclaredMachine,
) -> None:
    machine.declare(persistence("/srv", "/srv/inner", files='"/etc/machine-id"'))
    machine.apply()
    machine.next_boot()
    place = machine.target / "srv"
    subprocess.run(["rm", "-r", place / "deep", place / "file"], check=True)
    machine.next_boot()
    # The root itself has content there, which is hidden.
    (machine.top / "base/srv").mkdir(exist_ok=True)
    (machine.top / "base/srv/file").write_text("base")
    machine.next_boot()
    assert [p.name for p in place.iterdir()] == ["inner"]


def test_the_record_names_parents_until_they_are_seeded(machine: DeclaredMachine) -> None:
    machine.declare(persistence("/srv/a/b", files='"/etc/machine-id"'))
    machine.apply()
    machine.next_boot()
    assert known(machine) >= {"etc", "srv", "srv/a"}
    machine.declare(persistence("/srv", files='"/etc/machine-id"'))
    machine.apply()
    machine.next_boot()
    assert known(machine) & {"etc", "srv", "srv/a"} == {"etc"}


def known(machine: DeclaredMachine) -> set[str]:
    fd = os.open(machine.top / "one", os.O_RDONLY)
    try:
        parents = Parents(fd)
        return {path for path in ("etc", "srv", "srv/a", "srv/a/b") if path in parents}
    finally:
        os.close(fd)


def test_the_next_boot_completes_an_interrupted_copy(machine: DeclaredMachine) -> None:
    """The power fails while a parent is filled: the store has some of its names."""
    machine.declare(persistence("/srv", "/srv/deep/inner", files='"/etc/machine-id"'))
    machine.apply()
    kept = machine.top / "one/srv"
    (kept / "deep").mkdir(parents=True)
    (kept / "file").write_text("/srv")
    record = machine.top / "one/.ephemeroot/parents"
    record.write_bytes(b"etc\0srv\0srv/deep\0")
    machine.next_boot()
    assert (machine.target / "srv/deep/deeper/file").read_text() == "/srv"
    assert (machine.target / "srv/file").read_text() == "/srv"
    assert json.loads((machine.run / "boot.json").read_text())["wipe"]["problems"] == []
