"""A disk whose root any wiper can wipe, and a second filesystem beside it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import btrfsutil

from btrfs_image import DEFAULTS
from ephemeroot.hooks.__main__ import main as entry
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import devices

STORE = "/persistent"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
FOREIGN = 11
SNAPSHOT = "@snapshots/7/snapshot"


@dataclass
class Disk:
    """A disk with two filesystems: a btrfs with the root, snapshots of it and a store; and another
    one.
    """

    base: Path
    loop: str
    other: str
    top: Path
    boots: int = 0
    wiper: str = "btrfs"
    settings: dict[str, object] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    subvolume: str | None = None

    def make(self) -> None:
        for name in ("@", "@base", "persistent"):
            btrfsutil.create_subvolume(str(self.top / name))
        for name in ("@", "@base"):
            root = self.top / name
            for folder in ("etc", "sbin", "usr/lib", "persistent", "srv"):
                (root / folder).mkdir(parents=True)
            (root / "usr/lib/os-release").write_text("ID=test\n")
            (root / "sbin/init").write_text("#!/bin/sh\n")
            (root / "sbin/init").chmod(0o755)
        (self.top / "@/work").write_text("of today")
        (self.top / SNAPSHOT).parent.mkdir(parents=True)
        btrfsutil.create_snapshot(str(self.top / "@"), str(self.top / SNAPSHOT))
        marker = {"version": 1, "id": IDENTITY, "path": STORE}
        (self.top / "persistent/.ephemeroot-store").write_text(json.dumps(marker))
        self.as_wiper("btrfs")

    def as_wiper(self, wiper: str) -> None:
        uuid = devices.btrfs_uuid(self.loop) or ""
        on_device = {"filesystem": uuid, "subvolume": "@"}
        self.wiper = wiper
        known: dict[str, tuple[dict[str, object], dict[str, str]]] = {
            "btrfs": (DEFAULTS | {"base": "@base"}, on_device),
            "overlay": ({"type": "btrfs"}, on_device),
            "tmpfs": ({}, {}),
            "zfs": ({"dataset": "tank/ROOT/root"}, {"dataset": "tank/ROOT/root"}),
        }
        self.settings, self.identity = known[wiper]

    def own_words(self) -> str:
        """The command line of the root's own boot entry."""
        return {
            "tmpfs": "root=tmpfs",
            "zfs": "root=zfs:tank/ROOT/root",
        }.get(self.wiper, f"root={self.loop} rootflags=subvol=@")

    def plan(self) -> Plan:
        volume = MountVolume(
            mount_point=STORE,
            name="persistent",
            device=self.loop,
            type="btrfs",
            options=["subvol=persistent"],
        )
        wipe = Wipe(
            target="/",
            wiper=self.wiper,
            attribute=f"ephemeroot.wipers.{self.wiper}:{self.wiper.capitalize()}",
            device=self.device,
            subvolume=self.subvolume,
            settings=self.settings,
            identity=dict(self.identity),
        )
        return Plan(
            wipe=[volume, Store(path=STORE, volume="persistent", id=IDENTITY), wipe],
            persist=[Attach(mount_point=STORE, volume="persistent")],
            generation=1,
        )

    @property
    def run(self) -> Path:
        return self.base / f"run{self.boots}"

    @property
    def sysroot(self) -> Path:
        return self.base / "sysroot"

    def stage(self, stage: str, line: str) -> int:
        """Run the entry point in this process: an interpreter for each of all these lines takes too
        long.
        """
        plan = self.base / "plan.json"
        plan.write_bytes(self.plan().dump())
        self.sysroot.mkdir(exist_ok=True)
        where = ["--plan", str(plan), "--target", str(self.sysroot), "--run", str(self.run)]
        return entry([stage, *where, "--cmdline", line])

    def problems(self, stage: str) -> str:
        return json.dumps(self.report(stage)["problems"])

    def next_boot(self) -> None:
        subprocess.run(["umount", "-R", self.sysroot], check=False, capture_output=True)
        for volume in self.run.glob("volumes/*"):
            subprocess.run(["umount", volume], check=False, capture_output=True)
        self.boots += 1

    def report(self, stage: str) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.run / "boot.json").read_text())[stage]
        return found

    def state(self) -> list[tuple[str, str]]:
        """Every subvolume with its UUID, every file with its time: everything that a boot could
        change.
        """
        found = []
        for path, number in btrfsutil.SubvolumeIterator(str(self.top)):
            info = btrfsutil.subvolume_info(str(self.top), number)
            found.append((path, f"{info.uuid.hex()} {info.flags}"))
        found += [
            (str(path.relative_to(self.top)), f"{path.stat().st_ino} {path.stat().st_ctime_ns}")
            for path in self.top.rglob("*")
        ]
        return sorted(found)

    def mounts(self) -> list[str]:
        text = Path("/proc/self/mountinfo").read_text()
        return [line for line in text.splitlines() if str(self.base) in line]

    def assert_untouched(self, line: str, *, mount: str | None = None) -> None:
        """Both stages of a boot with *line* continue, and neither changes or mounts anything."""
        before, mounted = self.state(), self.mounts()
        assert self.stage("wipe", line) == FOREIGN, line
        assert "another root boots, unchanged" in str(self.report("wipe")["result"])
        said = self.report("wipe")["foreign"]
        assert self.stage("wipe", line) == FOREIGN, "a second start does nothing either"
        if mount is not None:
            options = f"{mount},ro" if mount else "ro"
            subprocess.run(["mount", "-o", options, self.loop, self.sysroot], check=True)
        assert self.stage("persist", line) == FOREIGN, line
        if mount is not None:
            subprocess.run(["umount", self.sysroot], check=True)
        assert self.mounts() == mounted
        assert self.state() == before
        assert not (self.run / "copies").exists()
        assert not (self.run / "wiped").exists()
        record = json.loads((self.run / "foreign").read_text())
        assert self.report("persist")["foreign"] == said
        assert said == {key: record[key] for key in ("kind", "reason", "hint")}
        assert record["reason"]
        assert self.report("wipe")["problems"] == self.report("persist")["problems"] == []
        self.next_boot()
