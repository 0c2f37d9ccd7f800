"""A layer volume with a quota, and one whose filesystem becomes read-only during a wipe.

Neither is full. The boot has a new layer on the volume or one in memory, and never writes to the
installed root; after the repair, the next boot has its layer on the volume again.
"""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import proof
from ephemeroot.cli import status
from failing_disk import FailingDisk, failing_disk
from layered_machine import LayeredMachine, content, two_disks

pytestmark = [
    pytest.mark.requires_loop,
    *(pytest.mark.requires_program(f"mkfs.{kind}") for kind in ("ext4", "btrfs", "xfs")),
    pytest.mark.usefixtures("private_mounts"),
]

DONE, PROBLEMS, IN_MEMORY = 0, 10, 12
CHANGES = frozenset(("mkdir", "rename", "setxattr", "fchown", "fchmod", "fsync", "rmdir"))
"""The functions before which the volume may stop accepting writes."""


@contextmanager
def on_a_volume(
    base: Path, kind: str, *options: str
) -> Iterator[tuple[LayeredMachine, FailingDisk]]:
    """A machine whose layers are on a separate disk, a filesystem of that *kind*."""
    with failing_disk(kind) as disk, two_disks(base) as (disks, store):
        if kind == "btrfs":
            with disk.mounted(base / "top") as top:
                subprocess.run(["btrfs", "-q", "subvolume", "create", top / "layers"], check=True)
        yield LayeredMachine(disks, store, layers=str(disk.path), kind=kind, options=options), disk


def said(machine: LayeredMachine) -> str:
    return str(machine.report("wipe")["result"])


def judge(machine: LayeredMachine, code: int) -> None:
    """An overlay is the root. If its layer is in memory, it accepts writes, and the report says so;
    otherwise the volume may have become read-only after its mount.
    """
    assert code in (DONE, PROBLEMS, IN_MEMORY), machine.report("wipe")
    assert machine.type_of_root() == "overlay"
    if code != IN_MEMORY:
        return
    shown = status.collect(str(machine.live()))
    assert shown.boot.state == "in-memory"
    assert any("layer in memory" in line for line in shown.complaints())
    (machine.root / "etc/lost").write_text("x")
    (machine.root / "etc/installed").unlink()


# A quota


def qgroup_of_content(top: Path, limit: str) -> None:
    subprocess.run(["btrfs", "qgroup", "limit", limit, top], check=True)


def qgroup_of_own_blocks(top: Path, limit: str) -> None:
    subprocess.run(["btrfs", "qgroup", "limit", "-e", limit, top], check=True)


def fill(top: Path) -> int | None:
    """Write files until there is an error; return its number."""
    try:
        for number in itertools.count():
            (top / f"fill-{number}").write_bytes(bytes(4000))
    except OSError as error:
        subprocess.run(["sync", "-f", top], check=True)
        return error.errno
    raise AssertionError


@pytest.mark.parametrize("limit", proof.sample([qgroup_of_content, qgroup_of_own_blocks], 1))
def test_a_reached_quota_gives_a_layer_in_memory(
    tmp_path: Path, limit: Callable[[Path, str], None]
) -> None:
    with on_a_volume(tmp_path, "btrfs", "subvol=layers") as (machine, disk):
        assert machine.boot()[0] == DONE
        machine.power_off()
        with disk.mounted(tmp_path / "top", "subvol=layers") as top:
            subprocess.run(["btrfs", "quota", "enable", top], check=True)
            subprocess.run(["btrfs", "quota", "rescan", "-w", top], check=True)
            limit(top, "4M")
            assert fill(top) == errno.EDQUOT
        before = content(machine)
        for _ in range(2):
            code = machine.boot()[0]
            judge(machine, code)
            assert code == IN_MEMORY
            assert "the quota of the volume /layers leaves no space" in said(machine)
            machine.power_off()
            assert content(machine) == before
        with disk.mounted(tmp_path / "top", "subvol=layers") as top:
            limit(top, "none")
        assert machine.boot()[0] == DONE
        assert (machine.root / "etc/installed").exists()
        machine.power_off()


# A device that is read-only


def test_the_boot_stops_when_the_device_of_the_layers_is_read_only(tmp_path: Path) -> None:
    with on_a_volume(tmp_path, "ext4") as (machine, disk):
        assert machine.boot()[0] == DONE
        machine.power_off()
        before = content(machine)
        subprocess.run(["blockdev", "--setro", disk.path], check=True)
        try:
            for policy, code in (("emergency", 73), ("reboot", 71), ("poweroff", 72)):
                machine.on_failure = {"store": policy}
                assert machine.boot() == [code], policy
                assert f"cannot mount {disk.path} (ext4) for /layers" in said(machine)
        finally:
            subprocess.run(["blockdev", "--setrw", disk.path], check=True)
        machine.power_off()
        assert content(machine) == before


# A filesystem that becomes read-only


def died(disk: FailingDisk) -> None:
    """The device accepts no more writes."""
    disk.refuse_writes()


def aborted(disk: FailingDisk) -> None:
    """What an ext4 with errors=remount-ro does when it finds an error."""
    name = Path(disk.path).name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("by a test")


WAYS = proof.sample([("btrfs", died), ("ext4", died), ("xfs", died), ("ext4", aborted)], 2, seed=1)


@contextmanager
def last_write(at: int, mounted: Path, end: Callable[[], None]) -> Iterator[list[int]]:
    """Call *end* before change number *at* after the mount at *mounted*, never if that is -1; the
    yielded list has one element, the number of changes.
    """
    count = [0]

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_call" and getattr(argument, "__name__", "") in CHANGES:
            if not os.path.ismount(mounted):
                return
            if count[0] == at:
                end()
            count[0] += 1

    sys.setprofile(watch)
    try:
        yield count
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(("kind", "way"), WAYS, ids=[f"{k}-{w.__name__}" for k, w in WAYS])
def test_a_filesystem_that_becomes_read_only_never_exposes_the_installed_root(
    tmp_path: Path, kind: str, way: Callable[[FailingDisk], None]
) -> None:
    options = {"btrfs": ("subvol=layers",), "ext4": ("errors=remount-ro",), "xfs": ()}[kind]

    def run(at: int) -> tuple[int, int]:
        with on_a_volume(tmp_path / str(at), kind, *options) as (machine, disk):
            assert machine.boot()[0] == DONE
            machine.power_off()
            before = content(machine)
            layers = machine.run / "volumes/layers"
            with last_write(at, layers, lambda: way(disk)) as count:
                code = machine.stage("wipe")
            assert code != IN_MEMORY or "a new layer on the volume /layers" in said(machine)
            machine.stage("persist")
            judge(machine, code)
            machine.power_off()
            assert content(machine) == before
            return code, count[0]

    code, count = run(-1)
    assert code == DONE
    codes = [run(at)[0] for at in proof.sample(range(count), 2, seed=len(kind))]
    assert IN_MEMORY in codes
