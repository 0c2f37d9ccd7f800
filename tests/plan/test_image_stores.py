"""Markers and records: written once, preserved, and writable by root only."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import paths
from ephemeroot.machine.facts import read_store_id
from ephemeroot.plan import stores
from interrupting import Interrupter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "persistent"
    path.mkdir()
    return path


def test_the_boot_accepts_a_marker(store: Path) -> None:
    identity = stores.write_marker(store, "/persistent")
    assert uuid.UUID(identity).version == 4
    assert read_store_id(str(store)) == identity
    content = json.loads((store / ".ephemeroot-store").read_text())
    assert content == {"version": 1, "id": identity, "path": "/persistent"}
    assert [path.name for path in store.iterdir()] == [".ephemeroot-store"]


def test_never_replaces_a_marker(store: Path) -> None:
    identity = stores.write_marker(store, "/persistent")
    with pytest.raises(FileExistsError):
        stores.write_marker(store, "/persistent")
    assert read_store_id(str(store)) == identity
    assert [path.name for path in store.iterdir()] == [".ephemeroot-store"]


def test_writes_records(store: Path) -> None:
    assert stores.generation(store) == 0
    stores.record(store, b"plan\n", 3)
    assert stores.generation(store) == 3
    folder = store / ".ephemeroot"
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == {
        "plan.json": 0o600,
        "generation": 0o600,
    }
    assert (folder / "plan.json").read_bytes() == b"plan\n"


def test_gives_records_back_to_root(store: Path) -> None:
    (store / ".ephemeroot").mkdir(mode=0o777)
    stores.record(store, b"plan\n", 1)
    assert (store / ".ephemeroot").stat().st_mode & 0o7777 == 0o700


def test_does_not_follow_links_in_place_of_records(store: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (store / ".ephemeroot").symlink_to(elsewhere)
    with pytest.raises(EphemerootError, match="not a directory that belongs to root"):
        stores.record(store, b"plan\n", 1)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.requires_root
def test_a_user_who_cannot_read_the_generation_repairs_nothing(store: Path) -> None:
    stores.record(store, b"{}", 3)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            stores.generation(store)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("content", ["", "many", "3 4"])
def test_a_damaged_generation_is_not_taken_for_a_low_one(store: Path, content: str) -> None:
    (store / ".ephemeroot").mkdir()
    (store / ".ephemeroot/generation").write_text(content)
    with pytest.raises(EphemerootError, match="generation"):
        stores.generation(store)


def test_copies_the_whole_configuration_at_each_apply(store: Path, tmp_path: Path) -> None:
    live = tmp_path / "etc/ephemeroot"
    (live / "conf.d").mkdir(parents=True)
    (live / "conf.d/one.toml").write_text("one")
    (live / "link").symlink_to("conf.d")
    assert not stores.keeps_configuration(store, tmp_path)
    stores.copy_configuration(store, tmp_path)
    kept = store / "etc/ephemeroot"
    assert (kept / "conf.d/one.toml").read_text() == "one"
    assert (kept / "link").readlink() == Path("conf.d")
    assert not stores.keeps_configuration(store, tmp_path)
    (live / "conf.d/one.toml").unlink()
    (live / "two.toml").write_text("two")
    stores.copy_configuration(store, tmp_path)
    assert sorted(p.name for p in kept.rglob("*")) == ["conf.d", "link", "two.toml"]
    assert [p.name for p in kept.parent.iterdir()] == ["ephemeroot"]


def test_a_configuration_that_is_a_file_of_the_store(store: Path, tmp_path: Path) -> None:
    (store / "etc/ephemeroot").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ephemeroot").symlink_to(store / "etc/ephemeroot")
    assert stores.keeps_configuration(store, tmp_path)


def test_keeps_a_different_configuration_of_the_store_aside(store: Path, tmp_path: Path) -> None:
    """After a boot without binds the root has the base's configuration, and the store the only
    other one.
    """
    live = tmp_path / "etc/ephemeroot"
    live.mkdir(parents=True)
    (live / "ephemeroot.toml").write_text("of the base")
    kept = store / "etc/ephemeroot"
    (kept / "conf.d").mkdir(parents=True)
    (kept / "conf.d/adopted.toml").write_text("adopted")
    aside = stores.copy_configuration(store, tmp_path)
    assert aside is not None
    assert (aside / "conf.d/adopted.toml").read_text() == "adopted"
    assert aside.parent.stat().st_mode & 0o7777 == 0o700
    assert [path.name for path in kept.iterdir()] == ["ephemeroot.toml"]
    (live / "plan.json").write_text("the applied plan")
    assert stores.copy_configuration(store, tmp_path) is None
    assert (kept / "plan.json").exists()


def test_an_interruption_never_loses_the_other_configuration(store: Path, tmp_path: Path) -> None:
    live = tmp_path / "etc/ephemeroot"
    (live / "conf.d").mkdir(parents=True)
    (live / "conf.d/mine.toml").write_text("live")
    kept = store / "etc/ephemeroot"
    interrupter = Interrupter((stores, paths), ("copy_configuration", "_keep_aside", "rename"))

    def another(content: str) -> None:
        for folder in (kept, store / ".ephemeroot"):
            shutil.rmtree(folder, ignore_errors=True)
        kept.mkdir(parents=True)
        (kept / "other.toml").write_text(content)

    def found() -> list[str]:
        return [path.read_text() for path in store.rglob("other.toml")]

    another("first")
    assert interrupter.run(lambda: stores.copy_configuration(store, tmp_path))
    assert "first" in found()
    steps = interrupter.steps
    assert steps > 100
    for step in range(steps):
        another(f"another {step}")
        interrupter.run(lambda: stores.copy_configuration(store, tmp_path), at=step)
        assert f"another {step}" in found(), interrupter.place
        stores.copy_configuration(store, tmp_path)
        assert f"another {step}" in found(), interrupter.place
        assert (kept / "conf.d/mine.toml").read_text() == "live"
