"""The old uppers of an overlay root, as ``ephemeroot roots`` sees them, on a real ext4."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ephemeroot.errors import EphemerootError, Locked, Misconfigured, Refused
from ephemeroot.linux import mounts
from ephemeroot.wipers import changes, marks, pruning
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.overlay.history import UpperHistory
from ephemeroot.wipers.overlay.uppers import FOLDER
from ephemeroot.wipers.pruning import Clock
from mounting import unmount
from overlay_machine import DAY, NOON, InstalledRoot, Machine, overlay_machine

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

FIRST = "2026-11-24T12-00-00Z"
SECOND = "2026-11-25T12-00-00Z"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with two old uppers and a present one."""
    with overlay_machine(tmp_path) as made:
        for day in range(3):
            made.wipe(NOON + day * DAY)
            (made.sysroot / "etc/lost").write_text(f"day {day}")
            (made.sysroot / "etc/installed").unlink()
            made.live()
        yield made


@contextmanager
def mounted(history: UpperHistory, name: str, where: Path) -> Iterator[Path]:
    mount = history.mount(history.find(name))
    where.mkdir()
    mounts.attach_at(mount, str(where))
    try:
        yield where
    finally:
        unmount(where)


def test_lists_the_old_uppers(machine: Machine) -> None:
    old = machine.folder / "old-uppers"
    (old / "notes").touch()
    (old / "2026-01-01T00-00-00Z").symlink_to(FIRST)
    (old / ".removing-2026-01-02T00-00-00Z").mkdir()
    with machine.history() as history:
        found = {entry.label: entry.kind for entry in history.entries()}
        assert found == {
            FIRST: "retired", SECOND: "retired", "notes": "foreign",
            "2026-01-01T00-00-00Z": "foreign",
        }  # fmt: skip
        facts = history.facts(history.find(FIRST))
        assert (facts.made, facts.state) == (NOON, marks.BOOT_COMPLETE)
        assert facts.exclusive is not None
        assert facts.exclusive >= 4096
        with pytest.raises(Misconfigured):
            history.find("2020-01-01T00-00-00Z")
        with pytest.raises(EphemerootError, match="not touched"):
            history.mount(history.find("notes"))
        with pytest.raises(Locked):
            machine.history().__enter__()


def test_an_old_upper_is_shown_over_the_installed_root(machine: Machine, tmp_path: Path) -> None:
    with machine.history() as history, mounted(history, FIRST, tmp_path / "old") as old:
        history.close()
        assert sorted(os.listdir(old / "etc")) == ["lost"], "what was deleted is not there"
        assert (old / "etc/lost").read_text() == "day 0"
        assert (old / "usr/lib/os-release").read_text() == "ID=test\n"
        for path in (old / "etc/lost", old / "new"):
            with pytest.raises(OSError, match="Read-only"):
                path.write_text("x")
    machine_mounts = Path("/proc/self/mountinfo").read_text()
    assert f" {machine.private}" not in machine_mounts


def test_shows_an_old_upper_over_a_writable_installed_root(
    machine: Machine, tmp_path: Path
) -> None:
    """A boot with ``ephemeroot.wipe=no``."""
    unmount(machine.sysroot)
    with InstalledRoot(machine) as top:
        (top / "usr/upgraded").touch()
        with machine.history() as history, mounted(history, FIRST, tmp_path / "old") as old:
            assert (old / "usr/upgraded").exists()
        (top / "still-writable").touch()


def test_does_not_delete_a_mounted_old_upper(machine: Machine, tmp_path: Path) -> None:
    with machine.history() as history:
        with mounted(history, FIRST, tmp_path / "old"):
            assert changes.keep(history, FIRST).execute() == f"{FIRST}.keep"  # type: ignore[union-attr]
            assert changes.keep(history, FIRST, wanted=False).execute() == FIRST  # type: ignore[union-attr]
            for attempt in (
                changes.delete(history, FIRST).prove,
                changes.delete(history, FIRST).execute,
            ):
                with pytest.raises(EphemerootError, match="is mounted"):
                    attempt()
            changes.delete(history, SECOND).execute()
        changes.delete(history, FIRST).execute()
        assert history.entries() == []
    assert machine.old() == []


def test_prunes_by_the_same_rules(machine: Machine) -> None:
    machine.settings = machine.settings | {"keep-last": 1}
    with machine.history() as history:
        clock = Clock(NOON + 33 * DAY, synchronised=True)
        result = pruning.by_settings(history, clock).run(log=lambda line: None)
        assert (result.pruned, result.problems) == ([FIRST], [])
        assert history.seen() == NOON + 33 * DAY
    assert machine.old() == [SECOND]


@pytest.mark.parametrize("flag", ["i", "a"])
def test_prunes_and_retires_layers_with_immutable_files(machine: Machine, flag: str) -> None:
    old = machine.folder / "old-uppers" / FIRST
    for upper in (old, machine.folder / "upper"):
        places = [upper / "etc/lost", upper / "etc", upper]
        subprocess.run(["chattr", f"+{flag}", *places], check=True)
    machine.settings = machine.settings | {"keep-last": 1}
    with machine.history() as history:
        clock = Clock(NOON + 33 * DAY, synchronised=True)
        result = pruning.by_settings(history, clock).run(log=lambda line: None)
        assert (result.pruned, result.problems) == ([FIRST], [])
    unmount(machine.sysroot)
    assert machine.wipe(NOON + 34 * DAY).problems == []
    third = next(name for name in machine.old() if name != SECOND)
    assert (machine.folder / "old-uppers" / third / "etc/lost").read_text() == "day 2"
    places = [machine.folder / "old-uppers" / third / name for name in ("", "etc", "etc/lost")]
    subprocess.run(["chattr", f"-{flag}", *places], check=True)


def test_finds_paths_that_changed_since_the_boot(machine: Machine) -> None:
    with machine.history() as history:
        changed_since = history.changed_since()
        assert changed_since is not None
        paths = ("/", "/etc", "/etc/lost", "/etc/installed", "/usr", "/usr/lib/os-release")
        assert [changed_since(path, 0) for path in paths] == [True, True, True, True, False, False]
    unmount(machine.sysroot)
    with machine.history() as history:
        assert history.changed_since() is None, "the present upper is not that of what is mounted"


def test_looking_creates_nothing(machine: Machine) -> None:
    unmount(machine.sysroot)
    os.rename(machine.folder, machine.volume / "elsewhere")
    with machine.history() as history:
        assert history.entries() == []
        assert history.changed_since() is None
    assert FOLDER not in os.listdir(machine.volume)


def test_a_layer_in_memory_has_a_base_but_no_history(machine: Machine) -> None:
    machine.settings = machine.settings | {"volume": None}
    assert not Overlay(machine.settings).keeps
    with machine.history() as history:
        assert history.entries() == []
        mount = history.mount_base()
        assert "etc" in os.listdir(mounts.fd_path(mount))
        os.close(mount)


def test_refuses_while_a_boot_holds_the_lock(machine: Machine) -> None:
    fd = os.open(machine.folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(Locked):
            machine.history().__enter__()
    finally:
        os.close(fd)


def test_layers_of_another_system_are_foreign_and_stay(machine: Machine) -> None:
    machine.wipe(NOON + 3 * DAY, system="one")
    with machine.history("one") as history:
        assert {entry.label for entry in history.retired()} >= {FIRST, SECOND}
    machine.settings = machine.settings | {"keep-days": 0, "keep-last": 0}
    with machine.history("two") as history:
        assert history.retired() == []
        clock = Clock(NOON + 33 * DAY, synchronised=True)
        assert pruning.by_settings(history, clock).run(log=lambda line: None).pruned == []
    with pytest.raises(Refused, match="another system"):
        Overlay(machine.settings).wipe(machine.boot(NOON + 4 * DAY, system="two"))
    assert {FIRST, SECOND} <= set(machine.old())


@contextmanager
def by_uuid(folder: Path, device: str) -> Iterator[str]:
    """The name UUID=… of *device*, with the link that udev would make, in a layer above /dev."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    (folder / "upper").mkdir()
    (folder / "work").mkdir()
    layers = f"lowerdir=/dev,upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", "/dev"], check=True)
    try:
        words = ["blkid", "--probe", "-s", "UUID", "-o", "value", device]
        uuid = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        Path("/dev/disk/by-uuid").mkdir(parents=True, exist_ok=True)
        Path(f"/dev/disk/by-uuid/{uuid}").symlink_to(device)
        yield f"UUID={uuid}"
    finally:
        subprocess.run(["umount", "--lazy", "/dev"], check=True)
        unmount(folder)


def test_the_device_of_the_installed_root_may_be_named_by_its_uuid(
    machine: Machine, tmp_path: Path
) -> None:
    with by_uuid(tmp_path / "links", machine.device) as spec:
        machine.device = spec
        with machine.history() as history:
            assert [entry.text for entry in history.entries()] == [FIRST, SECOND]
            with mounted(history, FIRST, tmp_path / "old") as root:
                assert (root / "etc/lost").read_text() == "day 0"
            os.close(history.mount_base())
            prune = pruning.by_settings(history, Clock(NOON + 90 * DAY, synchronised=True))
            assert prune.run(log=lambda line: None).problems == []
