"""Which root boots: one that the plan was not applied for is left untouched, by every wiper.

The cases are generated: each wiper, with each command line that names another root, adds a layer or
starts a crash kernel. After each the whole disk is as it was, nothing is mounted, and the report
says why.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import btrfsutil
import pytest

from btrfs_image import DEFAULTS, fresh_disk, loop_device
from ephemeroot.errors import ForeignRoot
from ephemeroot.hooks import ownership
from ephemeroot.hooks.__main__ import main as entry
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.volumes import Attach, Store, Volume
from ephemeroot.hooks.wipe import Wipe
from ephemeroot.linux import devices
from ephemeroot.wipers.contract import Named
from ephemeroot.wipers.zfs import Zfs

STORE = "/persistent"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
FOREIGN = 11

SNAPSHOT = "@snapshots/7/snapshot"

LAYERS = (
    "systemd.volatile=yes", "systemd.volatile", "systemd.volatile=overlay",
    "systemd.volatile=state", "rd.overlay=1", "rd.overlay", "rd.overlay=LABEL=upper",
    "rd.overlayfs=1", "rd.live.image", "rd.live.overlay.overlayfs=1", "rd.live.ram=1",
    "ostree=/ostree/boot.1/os/0123/0", "rootovl", "overlayroot=tmpfs",
)  # fmt: skip
CRASHES = ("elfcorehdr=0x5ffff000", "elfcorehdr=5599744K")
OTHER_KINDS = ("root=nfs:server:/root", "root=/dev/nfs", "root=live:LABEL=disc", "root=virtiofs:x",
               "root=zfs:tank/root", "root=ZFS=tank/root", "root=9p")  # fmt: skip


@dataclass
class Disk:
    """A disk with two filesystems: a btrfs that has the root, snapshots of it and a store; and
    another one.
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
        """What the root's own boot entry says."""
        return {
            "tmpfs": "root=tmpfs",
            "zfs": "root=zfs:tank/ROOT/root",
        }.get(self.wiper, f"root={self.loop} rootflags=subvol=@")

    def plan(self) -> Plan:
        volume = Volume(
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
            identity=self.identity,
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
        """The entry, in this process: an interpreter for each of all these lines takes too long."""
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
        """Every subvolume with its UUID, every file with its time: what a boot could change."""
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
        """Both stages of a boot with *line* go on, and neither changes or mounts anything."""
        before, mounted = self.state(), self.mounts()
        assert self.stage("wipe", line) == FOREIGN, line
        assert "another root boots, untouched" in str(self.report("wipe")["result"])
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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with fresh_disk(tmp_path) as image, loop_device(tmp_path / "other", 128) as other:
        subprocess.run(["mkfs.ext4", "-q", other], check=True)
        disk = Disk(tmp_path, image.loop, other, image.top)
        disk.make()
        yield disk
        disk.next_boot()


@pytest.mark.requires_loop
def test_own_root_is_wiped_and_bound(disk: Disk) -> None:
    """The counterpart of all that follows: with its own words each wiper goes to work."""
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    subprocess.run(["mount", "-o", "subvol=@", disk.loop, disk.sysroot], check=True)
    assert disk.stage("persist", disk.own_words()) == 0, disk.problems("persist")
    assert not (disk.run / "foreign").exists()
    assert not (disk.top / "@/work").exists()
    assert os.path.ismount(disk.sysroot / "persistent")


@pytest.mark.requires_loop
@pytest.mark.parametrize("wiper", ["btrfs", "overlay", "tmpfs", "zfs"])
def test_no_wiper_touches_a_root_that_is_not_the_plans(disk: Disk, wiper: str) -> None:
    disk.as_wiper(wiper)
    own = disk.own_words()
    lines = [f"{own} {word}" for word in LAYERS + CRASHES]
    lines += [f"{own} ephemeroot.wipe=no systemd.volatile=overlay"]
    lines += [word for word in OTHER_KINDS if not (wiper == "zfs" and "tank" in word)]
    if wiper == "zfs":
        lines += [f"root=zfs:tank/{name}" for name in ("ROOT/old", "ROOT/root/x", "ROOT", "home")]
        lines += ["root=ZFS=tank/ROOT/other", "root=zfs:pool2/ROOT/root", f"root={disk.loop}"]
    elif wiper == "tmpfs":
        lines += [f"root={disk.loop} rootflags=subvol=@", f"root={disk.other}", "root=zfs:AUTO"]
    else:
        lines += [f"root={disk.other}", f"root={disk.other} rootflags=subvol=@"]
        lines += [f"root={disk.loop} rootflags={flags}" for flags in (
            f"subvol={SNAPSHOT}", f"subvol=/{SNAPSHOT}", f"noatime,subvol={SNAPSHOT}",
            f"subvol=@ rootflags=subvol={SNAPSHOT}", f"subvol=@,subvol=/{SNAPSHOT}",
            "subvol=/", "subvol=@base", "subvol=@snapshots", "subvol=@/usr", "subvol=persistent",
            f"subvol={SNAPSHOT} ephemeroot.wipe=no", f"subvol={SNAPSHOT} ephemeroot.root=x",
            f"subvol={SNAPSHOT} ephemeroot.on-failure=reboot",
        )]  # fmt: skip
    for line in lines:
        disk.assert_untouched(line)


@pytest.mark.requires_loop
@pytest.mark.parametrize("how", ["default", "subvolid", "nothing named by the plan"])
def test_root_without_a_name_is_resolved_and_compared(disk: Disk, how: str) -> None:
    """Without ``subvol=`` the kernel mounts the default subvolume, or the one of ``subvolid=``."""
    number = btrfsutil.subvolume_id(str(disk.top / SNAPSHOT))
    if how == "subvolid":
        disk.assert_untouched(f"root={disk.loop} rootflags=subvolid={number}", mount="")
        disk.assert_untouched(f"root={disk.loop} rootflags=subvolid=5", mount="")
        return
    if how != "default":
        disk.identity, disk.subvolume = {}, "@"
    disk.assert_untouched(f"root={disk.loop}", mount="")
    btrfsutil.set_default_subvolume(str(disk.top), number)
    disk.assert_untouched(f"root={disk.loop} rootflags=noatime", mount="")
    btrfsutil.set_default_subvolume(str(disk.top), btrfsutil.subvolume_id(str(disk.top / "@")))
    disk.settings["set-default"] = True
    assert disk.stage("wipe", f"root={disk.loop}") == 0, disk.problems("wipe")
    assert not (disk.top / "@/work").exists()


@pytest.mark.requires_loop
def test_plan_of_an_earlier_version_names_the_command_to_run(
    disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    """It was applied before plans named their root: the kernel command line decides."""
    disk.identity = {}
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    assert not (disk.top / "@/work").exists()
    (line,) = [one for one in capfd.readouterr().err.splitlines() if "names no root" in one]
    assert "@, which the kernel command line names" in line
    assert "run 'ephemeroot apply'" in line


@pytest.mark.requires_loop
def test_plan_that_names_no_root_wipes_only_what_is_recorded_as_made_fresh(disk: Disk) -> None:
    """The boot menu offers snapshots: of before the first wipe, and of roots that a wipe made."""
    disk.identity = {}
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    disk.next_boot()
    disk.assert_untouched(f"root={disk.loop} rootflags=subvol={SNAPSHOT}")
    made = disk.top / "@made"
    btrfsutil.create_snapshot(str(disk.top / "@"), str(made))
    disk.assert_untouched(f"root={disk.loop} rootflags=subvol=@made")
    old = next(one for one in (disk.top / "old_roots").iterdir() if (one / "work").exists())
    disk.assert_untouched(f"root={disk.loop} rootflags=subvol=old_roots/{old.name}", mount="")
    (disk.top / "@/work").write_text("of the day after")
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    assert not (disk.top / "@/work").exists()


@pytest.mark.requires_loop
def test_own_root_named_by_its_id_is_refused(disk: Disk) -> None:
    number = btrfsutil.subvolume_id(str(disk.top / "@"))
    assert disk.stage("wipe", f"root={disk.loop} rootflags=subvolid={number}") == 10
    assert "by its id" in disk.problems("wipe")
    assert (disk.top / "@/work").exists()


@pytest.mark.requires_loop
@pytest.mark.parametrize("wiper", ["btrfs", "overlay"])
def test_filesystem_made_anew_boots_untouched_and_names_apply(disk: Disk, wiper: str) -> None:
    """The same device and the same names, another filesystem."""
    disk.as_wiper(wiper)
    disk.identity["filesystem"] = "0a1b2c3d-0000-4000-8000-000000000001"
    disk.assert_untouched(disk.own_words(), mount="subvol=@")
    record = json.loads((disk.base / "run0/foreign").read_text())
    assert record["kind"] == "filesystem"
    assert "ephemeroot apply" in record["hint"]


@pytest.mark.requires_loop
def test_image_for_many_machines_is_wiped_whatever_the_filesystem(disk: Disk) -> None:
    """``device = "LABEL=…"``: the plan names no filesystem, but still the subvolume."""
    del disk.identity["filesystem"]
    disk.device = disk.loop
    disk.assert_untouched(f"root={disk.loop} rootflags=subvol={SNAPSHOT}")
    disk.assert_untouched(f"root={disk.other} rootflags=subvol=@")
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    assert not (disk.top / "@/work").exists()


@pytest.mark.requires_loop
def test_persistence_stage_alone_recognises_a_root_that_is_not_the_plans(disk: Disk) -> None:
    """The wipe stage did not run, or kept the root before it could know."""
    disk.sysroot.mkdir()
    before = disk.state()
    options = f"subvol={SNAPSHOT},ro"
    subprocess.run(["mount", "-o", options, disk.loop, disk.sysroot], check=True)
    # The command line names the plan's root, and something else is mounted.
    assert disk.stage("persist", f"{disk.own_words()} ephemeroot.wipe=no") == FOREIGN
    subprocess.run(["umount", disk.sysroot], check=True)
    assert disk.state() == before


@pytest.mark.parametrize("word", ["systemd.volatile=no", "rd.overlay=0", "overlayroot=disabled",
                                  "rd.live.image=0", "rd.lvm=1", "ostreelike=1"])  # fmt: skip
def test_words_that_add_no_layer_are_not_one(word: str) -> None:
    assert ownership.layer(CommandLine(f"root=/dev/vda quiet {word}")) == ""


def test_vmcore_means_a_crash_kernel(tmp_path: Path) -> None:
    vmcore = tmp_path / "vmcore"
    ownership.require_no_crash_kernel(CommandLine("root=/dev/vda"), str(vmcore))
    vmcore.touch()
    with pytest.raises(ForeignRoot, match="crash kernel"):
        ownership.require_no_crash_kernel(CommandLine("root=/dev/vda"), str(vmcore))


@pytest.mark.parametrize(
    ("root", "dataset"),
    [("zfs:tank/a", "tank/a"), ("ZFS=tank/a+b", "tank/a b"), ("zfs:AUTO", ""), ("/dev/vda", "")],
)
def test_zfs_root_is_its_dataset(root: str, dataset: str) -> None:
    found = Zfs({}).identify(Named(root=root))
    assert found == ({"dataset": dataset} if dataset else {})
