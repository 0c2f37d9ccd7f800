"""Which root boots: one that the plan does not name is left unchanged by every wiper.

The cases are generated: each wiper, with each command line that names another root, adds a layer or
starts a crash kernel. After each boot the whole disk is unchanged, nothing is mounted, and the
report says why.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import btrfsutil
import pytest

from btrfs_image import fresh_disk, loop_device
from ephemeroot.errors import ForeignRoot
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.guards import ownership
from ephemeroot.wipers.contract import Named
from ephemeroot.wipers.zfs import Zfs
from root_disk import FOREIGN, SNAPSHOT, Disk

LAYERS = (
    "systemd.volatile=yes", "systemd.volatile", "systemd.volatile=overlay",
    "systemd.volatile=state", "rd.overlay=1", "rd.overlay", "rd.overlay=LABEL=upper",
    "rd.overlayfs=1", "rd.live.image", "rd.live.overlay.overlayfs=1", "rd.live.ram=1",
    "ostree=/ostree/boot.1/os/0123/0", "rootovl", "overlayroot=tmpfs",
)  # fmt: skip
CRASHES = ("elfcorehdr=0x5ffff000", "elfcorehdr=5599744K")
OTHER_KINDS = ("root=nfs:server:/root", "root=/dev/nfs", "root=live:LABEL=disc", "root=virtiofs:x",
               "root=zfs:tank/root", "root=ZFS=tank/root", "root=9p")  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with fresh_disk(tmp_path) as image, loop_device(tmp_path / "other", 128) as other:
        subprocess.run(["mkfs.ext4", "-q", other], check=True)
        disk = Disk(tmp_path, image.loop, other, image.top)
        disk.make()
        yield disk
        disk.next_boot()


@pytest.mark.requires_loop
def test_the_plans_own_root_is_wiped_and_bound(disk: Disk) -> None:
    """The counterpart of the tests below: with its own command line, each wiper makes a
    fresh root.
    """
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    subprocess.run(["mount", "-o", "subvol=@", disk.loop, disk.sysroot], check=True)
    assert disk.stage("persist", disk.own_words()) == 0, disk.problems("persist")
    assert not (disk.run / "foreign").exists()
    assert not (disk.top / "@/work").exists()
    assert os.path.ismount(disk.sysroot / "persistent")


@pytest.mark.requires_loop
@pytest.mark.parametrize("wiper", ["btrfs", "overlay", "tmpfs", "zfs"])
def test_no_wiper_changes_a_root_that_the_plan_does_not_name(disk: Disk, wiper: str) -> None:
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
def test_a_root_without_a_name_is_resolved_and_compared(disk: Disk, how: str) -> None:
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
def test_a_plan_of_an_earlier_version_is_refused_with_the_command_to_run(
    disk: Disk, capfd: pytest.CaptureFixture[str]
) -> None:
    """Plans of that version do not name their root: the kernel command line decides."""
    disk.identity = {}
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    assert not (disk.top / "@/work").exists()
    (line,) = [one for one in capfd.readouterr().err.splitlines() if "does not name a root" in one]
    assert "@ from the kernel command line" in line
    assert "run 'ephemeroot apply'" in line


@pytest.mark.requires_loop
def test_a_plan_without_a_root_wipes_only_the_recorded_ephemeral_root(disk: Disk) -> None:
    """The boot menu offers snapshots from before the first wipe, and of wiped roots."""
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
def test_refuses_the_own_root_named_by_its_id(disk: Disk) -> None:
    number = btrfsutil.subvolume_id(str(disk.top / "@"))
    assert disk.stage("wipe", f"root={disk.loop} rootflags=subvolid={number}") == 10
    assert "by its id" in disk.problems("wipe")
    assert (disk.top / "@/work").exists()


@pytest.mark.requires_loop
@pytest.mark.parametrize("wiper", ["btrfs", "overlay"])
def test_a_recreated_filesystem_boots_unchanged_and_the_message_names_apply(
    disk: Disk, wiper: str
) -> None:
    """The same device and the same names, but another filesystem."""
    disk.as_wiper(wiper)
    disk.identity["filesystem"] = "0a1b2c3d-0000-4000-8000-000000000001"
    disk.assert_untouched(disk.own_words(), mount="subvol=@")
    record = json.loads((disk.base / "run0/foreign").read_text())
    assert record["kind"] == "filesystem"
    assert "ephemeroot apply" in record["hint"]


@pytest.mark.requires_loop
def test_an_image_for_many_machines_wipes_on_any_filesystem(disk: Disk) -> None:
    """With ``device = "LABEL=…"`` the plan names the subvolume, but not the filesystem."""
    del disk.identity["filesystem"]
    disk.device = disk.loop
    disk.assert_untouched(f"root={disk.loop} rootflags=subvol={SNAPSHOT}")
    disk.assert_untouched(f"root={disk.other} rootflags=subvol=@")
    assert disk.stage("wipe", disk.own_words()) == 0, disk.problems("wipe")
    assert not (disk.top / "@/work").exists()


@pytest.mark.requires_loop
def test_the_persistence_stage_alone_recognises_a_foreign_root(disk: Disk) -> None:
    """The wipe stage did not run, or ended before it could compare the root."""
    disk.sysroot.mkdir()
    before = disk.state()
    options = f"subvol={SNAPSHOT},ro"
    subprocess.run(["mount", "-o", options, disk.loop, disk.sysroot], check=True)
    # The command line names the plan's root, but another one is mounted.
    assert disk.stage("persist", f"{disk.own_words()} ephemeroot.wipe=no") == FOREIGN
    subprocess.run(["umount", disk.sysroot], check=True)
    assert disk.state() == before


@pytest.mark.parametrize("word", ["systemd.volatile=no", "rd.overlay=0", "overlayroot=disabled",
                                  "rd.live.image=0", "rd.lvm=1", "ostreelike=1"])  # fmt: skip
def test_words_that_add_no_layer_are_ignored(word: str) -> None:
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
def test_a_zfs_root_is_identified_by_its_dataset(root: str, dataset: str) -> None:
    found = Zfs({}).identify(Named(root=root))
    assert found == ({"dataset": dataset} if dataset else {})
