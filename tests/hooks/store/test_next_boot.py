"""One-shot requests: stored in the store, obeyed by the next boot, and then deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import fresh_disk
from ephemeroot.errors import Damaged
from ephemeroot.hooks.store.request import KEEP, ROOT, WIPE, Request, parse
from staged_machine import Machine

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path) as disk:
        machine = Machine(tmp_path, disk.loop, disk.top)
        (disk.top / "root/stray").write_text("forget me")
        yield machine
        machine.next_boot()


def record(machine: Machine) -> Path:
    return machine.top / "persistent/.ephemeroot/next-boot"


def leave(machine: Machine, content: bytes) -> None:
    record(machine).parent.mkdir(mode=0o700, exist_ok=True)
    record(machine).write_bytes(content)


def retire_one(machine: Machine) -> str:
    """Run a whole boot; return the name of the root that it retired, which has ``stray``."""
    machine.boot()
    machine.next_boot()
    (name,) = machine.old()
    return name


def test_keep_applies_to_one_boot(machine: Machine) -> None:
    leave(machine, Request(KEEP).dump())
    root = machine.boot()
    assert (root / "stray").exists()
    assert (root / "srv").is_mount()
    assert machine.old() == []
    assert machine.report()["wipe"]["result"] == "root kept: next-boot keep"
    assert not record(machine).exists()
    machine.next_boot()
    assert not (machine.boot() / "stray").exists()


def test_boots_an_old_root_once(machine: Machine) -> None:
    name = retire_one(machine)
    leave(machine, Request(ROOT, name.removesuffix(".keep")).dump())
    root = machine.boot()
    assert (root / "stray").read_text() == "forget me"
    assert len(machine.old()) == 2, "the present root was retired as always"
    assert (machine.top / "old_roots" / name / "stray").exists(), "and the old one is still there"
    assert not record(machine).exists()
    machine.next_boot()
    assert not (machine.boot() / "stray").exists()


def test_a_request_to_wipe_applies_to_one_boot(machine: Machine) -> None:
    leave(machine, Request(WIPE).dump())
    assert not (machine.boot() / "stray").exists()
    assert not record(machine).exists()


def test_only_a_boot_that_reaches_persistence_consumes_the_request(machine: Machine) -> None:
    leave(machine, Request(KEEP).dump())
    assert machine.stage("wipe").returncode == 0
    assert record(machine).exists()
    machine.next_boot()
    assert machine.stage("wipe").returncode == 0
    assert (machine.top / "root/stray").exists()
    machine.mount_root()
    assert machine.stage("persist").returncode == 0
    assert not record(machine).exists()


def test_a_boot_that_binds_nothing_consumes_the_request(machine: Machine) -> None:
    leave(machine, Request(KEEP).dump())
    assert machine.stage("wipe").returncode == 0
    machine.mount_root()
    assert machine.stage("persist", "ephemeroot.persist=no").returncode == 0
    assert not record(machine).exists()
    machine.next_boot()
    assert not (machine.boot() / "stray").exists()


def test_a_broken_store_does_not_stop_a_boot_that_binds_nothing(machine: Machine) -> None:
    leave(machine, Request(KEEP).dump())
    assert machine.stage("wipe").returncode == 0
    machine.mount_root()
    (machine.top / "persistent/.ephemeroot-store").unlink()
    ran = machine.stage("persist", "ephemeroot.persist=no")
    assert ran.returncode == 0, ran
    assert machine.report()["persist"]["result"] == "no path is persistent: ephemeroot.persist=no"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format":',
        b"[]",
        b'{"format": "ephemeroot-next-boot", "version": 2, "request": "keep"}',
        b'{"format": "ephemeroot-next-boot", "version": 1, "request": "erase"}',
        b'{"format": "ephemeroot-next-boot", "version": 1, "request": "root", "root": 7}',
        b'{"format": "ephemeroot-next-boot", "version": 1, "request": "root"}',
    ],
)
def test_an_invalid_request_changes_nothing(machine: Machine, content: bytes) -> None:
    leave(machine, content)
    machine.assert_kept(machine.stage("wipe"), "cannot follow the request")
    machine.mount_root()
    machine.stage("persist")
    assert not record(machine).exists(), "it was for this boot only"


def test_a_request_for_a_missing_old_root_is_refused(machine: Machine) -> None:
    leave(machine, Request(ROOT, "2026-01-01T00-00-00Z").dump())
    done = machine.stage("wipe")
    assert done.returncode == 10
    assert "cannot boot the old root '2026-01-01T00-00-00Z'" in done.stderr
    assert (machine.top / "root/stray").exists()


def test_refuses_a_request_that_root_does_not_own(machine: Machine) -> None:
    leave(machine, Request(KEEP).dump())
    os.chown(record(machine), 1000, 1000)
    machine.assert_kept(machine.stage("wipe"), "is not owned by root")


def test_the_kernel_command_line_takes_precedence(machine: Machine) -> None:
    name = retire_one(machine)
    leave(machine, Request(KEEP).dump())
    root = machine.boot(f"ephemeroot.root={name}")
    assert (root / "stray").exists()
    assert not record(machine).exists()
    machine.next_boot()
    leave(machine, Request(KEEP).dump())
    assert not (machine.boot("ephemeroot.wipe=yes") / "stray").exists()
    machine.next_boot()
    (machine.top / "root/stray").write_text("here")
    leave(machine, Request(WIPE).dump())
    assert (machine.boot("ephemeroot.wipe=no") / "stray").exists()


@pytest.mark.parametrize("word", ["ephemeroot.root", "ephemeroot.root="])
def test_refuses_a_request_for_an_old_root_without_a_name(machine: Machine, word: str) -> None:
    machine.assert_kept(machine.stage("wipe", word), "does not name an old root")


def test_a_written_request_reads_back() -> None:
    for request in (Request(KEEP), Request(WIPE), Request(ROOT, "a\nb*é")):
        again = parse(request.dump())
        assert (again.word, again.root) == (request.word, request.root)
        assert json.loads(request.dump())["version"] == 1
    for word, root in (("erase", None), (ROOT, None), (ROOT, ""), (KEEP, "x")):
        with pytest.raises(Damaged):
            Request(word, root)
