"""A program replaces a link of Ephemeroot with a file or a directory: the next boot stores the new
content. With the real stages, with each method that makes links, and after failed boots.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from btrfs_image import fresh_disk
from complete_boot import mark_boot_complete
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers.btrfs import Btrfs
from living_machine import STORE, LivingMachine

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


def file(name: str, method: str) -> Operation:
    return File(path=f"/srv/{name}", store=STORE, source=f"srv/{name}", method=method)


class Machine(LivingMachine):
    """A machine whose files and directories are links in all variants: with content in the store or
    without.
    """

    def plan(self, *more: Operation) -> Plan:
        return super().plan(
            file("auto", "auto"),
            file("link", "symlink"),
            file("full", "symlink"),
            file("bound", "auto"),
            Directory(path="/srv/directory", store=STORE, source="srv/directory", method="symlink"),
            *more,
        )

    @property
    def store(self) -> Path:
        return self.disk.top / "store/srv"

    def boots(self, words: str = "") -> list[int]:
        codes = self.boot_by_the_stages(words)
        mark_boot_complete(Btrfs(self.settings), self.root)
        return codes

    def said(self) -> str:
        report = json.loads((self.root / "run/ephemeroot/boot.json").read_text())
        problems: list[Any] = [p for name in ("wipe", "persist") for p in report[name]["problems"]]
        return "\n".join(f"{one['problem']} [{one['hint']}]" for one in problems)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_of(tmp_path) as made:
        yield made


@contextmanager
def machine_of(folder: Path) -> Iterator[Machine]:
    with fresh_disk(folder, 256) as disk:
        machine = Machine(disk, folder / "machine")
        (machine.store / "directory").mkdir(parents=True)
        (machine.store / "directory/old").write_text("old")
        for name in ("full", "bound"):
            (machine.store / name).write_text("old")
        try:
            assert machine.boots() == [0, 0]
            yield machine
        finally:
            machine.shut_down()


def replace(machine: Machine, name: str, text: str) -> None:
    """Replace the file by rename, as programs save files."""
    place = machine.root / "srv" / name
    place.with_name("new").write_text(text)
    place.with_name("new").rename(place)


def replace_directory(machine: Machine, text: str) -> None:
    place = machine.root / "srv/directory"
    place.unlink()
    place.mkdir()
    (place / "new").write_text(text)


def test_stores_content_that_replaced_a_link_and_keeps_the_previous_content_once(
    machine: Machine,
) -> None:
    for name in ("auto", "link", "full"):
        replace(machine, name, "first")
    replace_directory(machine, "first")
    machine.boots()
    for name in ("auto", "link", "full"):
        assert (machine.store / name).read_text() == "first", name
    assert (machine.store / "directory/new").read_text() == "first"
    assert (machine.store / "full.ephemeroot-previous").read_text() == "old"
    assert (machine.store / "directory.ephemeroot-previous/old").read_text() == "old"
    assert not (machine.store / "link.ephemeroot-previous").exists(), "there was none"
    said = machine.said()
    assert "/srv/full: a program replaced the link" in said
    assert "/persistent/srv/full.ephemeroot-previous" in said
    assert 'method = "copy"' in said
    assert 'method = "bind"' in said
    # The first content, of the administrator, still exists.
    replace(machine, "full", "second")
    replace_directory(machine, "second")
    machine.boots()
    assert (machine.store / "full").read_text() == "second"
    assert (machine.store / "directory/new").read_text() == "second"
    assert (machine.store / "full.ephemeroot-previous").read_text() == "old"
    assert (machine.store / "directory.ephemeroot-previous/old").read_text() == "old"
    # The path is in effect again, and nothing more is reported.
    machine.boots()
    assert "replaced" not in machine.said()
    assert sorted(path.name for path in machine.store.iterdir()) == sorted(
        ["auto", "bound", "data", "directory", "directory.ephemeroot-previous", "full",
         "full.ephemeroot-previous", "link"]
    )  # fmt: skip


def test_a_link_in_place_takes_nothing_from_the_root(machine: Machine) -> None:
    (machine.store / "link").write_text("by the link")
    machine.boots()
    assert (machine.store / "link").read_text() == "by the link"
    assert not list(machine.store.glob("*.ephemeroot-*"))
    assert machine.said() == ""


def test_a_kept_root_has_the_link_again_and_the_store_the_content(
    machine: Machine,
) -> None:
    replace(machine, "full", "first")
    machine.boots("ephemeroot.wipe=no")
    assert (machine.store / "full").read_text() == "first"
    assert (machine.root / "srv/full").is_symlink()
    machine.boots()
    assert (machine.store / "full").read_text() == "first"


@pytest.mark.parametrize("words", ["ephemeroot.persist=no"])
def test_files_written_while_a_path_is_not_in_effect_never_replace_the_store(
    machine: Machine, words: str
) -> None:
    """A service starts without its data, and creates new data."""
    machine.boots(words)
    (machine.root / "srv").mkdir(exist_ok=True)
    for name in ("full", "bound"):
        (machine.root / "srv" / name).write_text("an empty database")
    (machine.root / "srv/directory").mkdir()
    (machine.root / "srv/directory/new").write_text("an empty database")
    machine.boots()
    for name in ("full", "bound", "directory/old"):
        assert (machine.store / name).read_text() == "old", name
    assert not (machine.store / "directory/new").exists()


def test_content_in_place_of_a_failed_link_is_kept_aside_and_reported(machine: Machine) -> None:
    base = machine.disk.top / "base/srv/full"
    base.mkdir(parents=True)
    assert machine.boots() != [0, 0]
    (machine.root / "srv/full/new").write_text("an empty database")
    base.rmdir()
    machine.boots()
    assert (machine.store / "full").read_text() == "old"
    assert (machine.store / "full.ephemeroot-conflict/new").read_text() == "an empty database"
    assert "/persistent/srv/full.ephemeroot-conflict" in machine.said()


def test_a_bound_file_is_never_taken_from_the_root(machine: Machine) -> None:
    bare = machine.disk.top / "root/srv/bound"
    bare.write_text("below the bind")
    machine.boots()
    assert (machine.store / "bound").read_text() == "old"
    assert not list(machine.store.glob("bound.*"))


def test_a_directory_in_place_of_a_declared_file_is_kept_aside(machine: Machine) -> None:
    place = machine.root / "srv/full"
    place.unlink()
    place.mkdir()
    (place / "new").write_text("new")
    machine.boots()
    assert (machine.store / "full").read_text() == "old"
    assert (machine.store / "full.ephemeroot-conflict/new").read_text() == "new"
