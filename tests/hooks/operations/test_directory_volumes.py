"""Volumes that are directories of a filesystem (X-mount.subdir=), including those of an overlay's
own installed root: both stages on real filesystems.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from btrfs_image import loop_device
from ephemeroot.hooks.__main__ import main as entry
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.store import request

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
DONE, STOPPED = 0, 73
SIZES = {"ext4": 32, "xfs": 320, "btrfs": 128}
KEPT = ("/boot", "/usr/lib/modules", "/persistent")


@dataclass
class Installed:
    """An installed root of that type, whose directories KEPT are volumes."""

    base: Path
    type: str
    loop: str
    boots: int = 0

    def install(self) -> None:
        with self.mounted() as top:
            release = os.uname().release
            for name in ("etc", "sbin", "boot", f"usr/lib/modules/{release}", "persistent"):
                (top / name).mkdir(parents=True)
            (top / "usr/lib/os-release").write_text("ID=test\n")
            (top / "sbin/init").write_text("#!/bin/sh\n")
            (top / "sbin/init").chmod(0o755)
            (top / "boot/vmlinuz").write_text("kernel")
            marker = {"version": 1, "id": IDENTITY, "path": "/persistent"}
            (top / "persistent/.ephemeroot-store").write_text(json.dumps(marker))

    def mounted(self) -> Mounted:
        return Mounted(self.loop, self.base / "installed")

    def plan(self) -> Plan:
        volumes = [
            MountVolume(
                mount_point=point,
                name=point.strip("/").replace("/", "-"),
                device=self.loop,
                type=self.type,
                options=[f"X-mount.subdir={point.strip('/')}"],
            )
            for point in KEPT
        ]
        wipe = Wipe(
            target="/",
            wiper="overlay",
            attribute="ephemeroot.wipers.overlay:Overlay",
            settings={"type": self.type, "volume": None, "keep-days": 30, "keep-last": 3},
        )
        store = Store(path="/persistent", volume="persistent", id=IDENTITY)
        attached: list[Operation] = [
            Attach(mount_point=v.mount_point, volume=v.name) for v in volumes
        ]
        return Plan(wipe=[*volumes, store, wipe], persist=attached, generation=1)

    @property
    def root(self) -> Path:
        return self.base / "sysroot"

    def stage(self, name: str, *words: str) -> int:
        plan = self.base / "plan.json"
        plan.write_bytes(self.plan().dump())
        self.root.mkdir(exist_ok=True)
        run = self.base / f"run{self.boots}"
        where = ["--plan", str(plan), "--target", str(self.root), "--run", str(run)]
        return entry([name, *where, "--cmdline", " ".join([f"root={self.loop} ro", *words])])

    def boot(self) -> None:
        self.boots += 1
        assert self.stage("wipe") == DONE, self.report("wipe")
        assert self.stage("persist") == DONE, self.report("persist")
        assert not list((self.base / f"run{self.boots}/volumes").glob("*/*")), "private mounts"

    def report(self, stage: str) -> object:
        return json.loads((self.base / f"run{self.boots}/boot.json").read_text()).get(stage)

    def power_off(self) -> None:
        subprocess.run(["umount", "-R", self.root], capture_output=True)
        for volume in self.base.glob("run*/volumes/*"):
            subprocess.run(["umount", volume], capture_output=True)


class Mounted:
    """The filesystem as it is on the disk."""

    def __init__(self, loop: str, place: Path) -> None:
        self.loop = loop
        self.place = place

    def __enter__(self) -> Path:
        self.place.mkdir(exist_ok=True)
        subprocess.run(["mount", self.loop, self.place], check=True)
        return self.place

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", self.place], check=True)


@pytest.fixture(params=sorted(SIZES))
def installed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installed]:
    with loop_device(tmp_path / "disk", SIZES[request.param]) as loop:
        subprocess.run([f"mkfs.{request.param}", "-q", loop], check=True)
        machine = Installed(tmp_path, request.param, loop)
        machine.install()
        yield machine
        machine.power_off()


def test_files_written_to_kept_directories_are_in_the_installed_root(
    installed: Installed,
) -> None:
    for number in (1, 2):
        installed.boot()
        root = installed.root
        assert (root / "boot/vmlinuz").read_text() == "kernel"
        assert not (root / "etc/lost").exists()
        (root / f"boot/vmlinuz-{number}").write_text("another")
        (root / f"usr/lib/modules/{number}").mkdir()
        (root / f"persistent/{number}").write_text("kept")
        (root / "etc/lost").write_text(f"boot {number}")
        installed.power_off()
    with installed.mounted() as top:
        assert sorted(p.name for p in (top / "boot").iterdir()) == [
            "vmlinuz", "vmlinuz-1", "vmlinuz-2"
        ]  # fmt: skip
        assert (top / "usr/lib/modules/2").is_dir()
        assert (top / "persistent/2").exists()
        assert not (top / "etc/lost").exists()


@pytest.mark.parametrize("asked", ["ephemeroot.wipe=no", "a request"])
def test_a_kept_root_boots_with_the_same_directories(installed: Installed, asked: str) -> None:
    """The distribution mounts the root read-only between the stages, and a layer is added later."""
    installed.boot()
    (installed.root / "etc/lost").write_text("in the layer")
    installed.power_off()
    if asked == "a request":
        with installed.mounted() as top:
            record = top / "persistent" / request.RECORD
            record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            record.write_bytes(request.Request(request.KEEP).dump())
    words = () if asked == "a request" else (asked,)
    installed.boots += 1
    assert installed.stage("wipe", *words) == DONE, installed.report("wipe")
    assert "root kept" in json.dumps(installed.report("wipe"))
    subprocess.run(["mount", "-o", "ro", installed.loop, installed.root], check=True)
    assert installed.stage("persist", *words) == DONE, installed.report("persist")
    assert not (installed.root / "etc/lost").exists()
    (installed.root / "boot/upgraded").write_text("kernel")
    (installed.root / "persistent/kept").write_text("kept")
    installed.power_off()
    installed.boot()
    assert (installed.root / "boot/upgraded").exists()
    assert (installed.root / "persistent/kept").exists()


@pytest.mark.parametrize("there", ["nothing", "a file", "a link elsewhere"])
def test_stops_if_the_directory_of_a_volume_is_missing(installed: Installed, there: str) -> None:
    with installed.mounted() as top:
        place = top / "persistent"
        place.rename(top / "away")
        if there == "a file":
            place.write_text("x")
        elif there != "nothing":
            place.symlink_to("away")
        before = sorted(p.name for p in top.iterdir())
    installed.boots += 1
    assert installed.stage("wipe") == STOPPED
    assert "the directory persistent of" in json.dumps(installed.report("wipe"))
    installed.power_off()
    with installed.mounted() as top:
        assert sorted(p.name for p in top.iterdir()) == before
