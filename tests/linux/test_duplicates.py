"""Two devices with one name: udev's database for real filesystems on loop devices.

No udev runs during these tests: its records are written from the output of the real blkid.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from boot import IDENTITY, STORE, Boot
from btrfs_image import loop_device
from ephemeroot.errors import StoreMissing
from ephemeroot.hooks import wipe as wipe_stage
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operations.volumes import MountVolume, Store
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import duplicates, mountinfo, unopened

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("blkid")]


class Disks:
    """Loop devices, and the records that udev would keep of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.database = folder / "data"
        self.database.mkdir()
        self.sysfs = "/sys"

    def add(self, image: Path | None = None) -> str:
        """A new device: empty, or a copy of *image*, made with dd."""
        path = self.folder / f"{len(list(self.folder.glob('*.img')))}.img"
        if image is None:
            return self.stack.enter_context(loop_device(path, 120))
        subprocess.run(["dd", f"if={image}", f"of={path}", "bs=1M", "status=none"], check=True)
        return self.stack.enter_context(loop_device(path))

    def number(self, device: str) -> str:
        return Path(f"/sys/class/block/{Path(device).name}/dev").read_text().strip()

    def record(self, device: str, *links: str) -> dict[str, str]:
        """The record that 60-persistent-storage.rules makes for the device, with further
        *links*.
        """
        command = ["blkid", "--probe", "--output", "udev", device]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        names = [
            f"disk/{folder}/{found[key]}"
            for folder, key in (("by-uuid", "ID_FS_UUID_ENC"), ("by-label", "ID_FS_LABEL_ENC"))
            if key in found
        ]
        lines = [f"S:{name}" for name in (*names, *links)]
        lines += ["I:12345", *(f"E:{key}={value}" for key, value in found.items()), "V:1"]
        (self.database / f"b{self.number(device)}").write_text("\n".join(lines) + "\n")
        return found

    def duplicates(self, spec: str) -> list[str]:
        return duplicates.of(spec, str(self.database), self.sysfs)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    with ExitStack() as stack:
        made = Disks(tmp_path, stack)
        # Records of another kind, which must be ignored.
        (made.database / "n2").write_text("S:disk/by-uuid/x\n")
        (made.database / "b999:1").write_text("S:disk/by-id/x\nE:ID_FS_UUID=x\n")
        yield made


def mkfs(kind: str, *words: str) -> None:
    subprocess.run([f"mkfs.{kind}", "-q", *words], check=True, capture_output=True)


def backing(device: str) -> Path:
    return Path(Path(f"/sys/class/block/{Path(device).name}/loop/backing_file").read_text().strip())


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_reports_a_copy(disks: Disks, kind: str) -> None:
    first = disks.add()
    mkfs(kind, "-L", "my data", first)
    identity = disks.record(first)["ID_FS_UUID"]
    assert disks.duplicates(f"UUID={identity}") == []
    assert disks.duplicates("LABEL=my data") == []
    second = disks.add(backing(first))
    disks.record(second)
    both = sorted((first, second))
    assert disks.duplicates(f"UUID={identity}") == both
    assert disks.duplicates("LABEL=my data") == both
    assert disks.duplicates(f"/dev/disk/by-uuid/{identity}") == both
    # A name that only one device has is unambiguous.
    assert disks.duplicates(first) == []
    assert disks.duplicates("ID=loop-0") == []
    assert disks.duplicates("nonsense") == []


def test_one_btrfs_on_two_devices_is_not_a_duplicate(disks: Disks) -> None:
    first, second = disks.add(), disks.add()
    mkfs("btrfs", "-L", "pool", first, second)
    identity = disks.record(first)["ID_FS_UUID"]
    assert disks.record(second)["ID_FS_UUID"] == identity
    assert disks.duplicates(f"UUID={identity}") == []
    assert disks.duplicates("LABEL=pool") == []
    copy = disks.add(backing(second))
    disks.record(copy)
    assert disks.duplicates(f"UUID={identity}") == sorted((second, copy)), (
        "the first has no duplicate"
    )


def test_reports_one_label_on_two_filesystems(disks: Disks) -> None:
    first, second = disks.add(), disks.add()
    mkfs("btrfs", "-L", "data", first)
    mkfs("ext4", "-L", "data", second)
    disks.record(first)
    disks.record(second)
    assert disks.duplicates("LABEL=data") == sorted((first, second))


def test_reports_a_cloned_partition_table(disks: Disks) -> None:
    """Its partitions have the same PARTUUIDs, whatever they contain; two devices of one btrfs have
    different ones.
    """
    first, second = disks.add(), disks.add()
    mkfs("btrfs", first, second)
    for device in (first, second):
        disks.record(device, "disk/by-partuuid/c0ffee01-01")
    assert disks.duplicates("PARTUUID=c0ffee01-01") == sorted((first, second))


def test_devices_stacked_on_one_device_are_not_duplicates(disks: Disks, tmp_path: Path) -> None:
    """A mapping over the whole device, at any height; with sysfs as on a kernel with
    device mapper.
    """
    first = disks.add()
    mkfs("ext4", first)
    identity = disks.record(first)["ID_FS_UUID"]
    raw = (disks.database / f"b{disks.number(first)}").read_text()
    (disks.database / "b252:1").write_text(raw)
    assert len(disks.duplicates(f"UUID={identity}")) == 2, (
        "nothing says yet that one is the other's"
    )
    sysfs = tmp_path / "sys"
    names = {"loop": disks.number(first), "dm-0": "252:0", "dm-1": "252:1", "dm-2": "252:2"}
    for name, number in names.items():
        (sysfs / "block" / name / "holders").mkdir(parents=True)
        (sysfs / "block" / name / "dev").write_text(f"{number}\n")
        (sysfs / "dev/block").mkdir(parents=True, exist_ok=True)
        (sysfs / "dev/block" / number).symlink_to(f"../../block/{name}")
    for below, above in (("loop", "dm-0"), ("dm-0", "dm-1"), ("dm-0", "dm-2")):
        (sysfs / "block" / below / "holders" / above).symlink_to(f"../../{above}")
    disks.sysfs = str(sysfs)
    assert disks.duplicates(f"UUID={identity}") == []
    # A snapshot: a second device above the same one.
    (sysfs / "block/dm-2/dm").mkdir()
    (sysfs / "block/dm-2/dm/name").write_text("vg-snapshot\n")
    (disks.database / "b252:2").write_text(raw)
    assert disks.duplicates(f"UUID={identity}") == ["/dev/dm-1", "/dev/mapper/vg-snapshot"]


LUKS = "0d3c8f2e-7c44-4f0e-b1a5-52d9c86e4f77"
ARRAY = "3aaa0122-2982-7cfa-5331-ad66ca767371"


def test_the_hint_names_the_missing_word_for_each_closed_device(
    disks: Disks, tmp_path: Path
) -> None:
    """The kernel command line lacks a word for each device that nothing has been made of."""
    plain = disks.add()
    mkfs("ext4", plain)
    disks.record(plain)
    database = str(disks.database)
    assert unopened.hint(database) == ""
    encrypted = disks.add()
    with open(encrypted, "r+b") as device:  # a header as LUKS 1 begins
        device.write(b"LUKS\xba\xbe\x00\x01" + bytes(160) + LUKS.encode())
    assert disks.record(encrypted)["ID_FS_TYPE"] == "crypto_LUKS"
    member = "E:ID_FS_TYPE=linux_raid_member\nE:ID_FS_UUID=" + ARRAY
    (disks.database / "b999:7").write_text(member + "\n")
    (disks.database / "b999:8").write_text("E:ID_FS_TYPE=LVM2_member\n")
    said = unopened.hint(database)
    assert f"{encrypted} (rd.luks.uuid=luks-{LUKS}), " in said
    assert "/dev/999:7 (rd.md.uuid=3aaa0122:29827cfa:5331ad66:ca767371), " in said
    assert "/dev/999:8 (rd.lvm.lv=GROUP/VOLUME): " in said
    assert plain not in said.replace(encrypted, "")
    # Once a device is stacked on it, it was opened.
    number, sysfs = disks.number(encrypted), tmp_path / "sys"
    (sysfs / "dev/block" / number / "holders/dm-0").mkdir(parents=True)
    (sysfs / "dev/block" / number / "holders/dm-0/dev").write_text("252:0\n")
    assert "rd.luks" not in unopened.hint(database, str(sysfs))


def test_without_udev_no_duplicate_is_known(tmp_path: Path) -> None:
    assert duplicates.of("UUID=x", str(tmp_path / "none")) == []
    assert unopened.hint(str(tmp_path / "none")) == ""


def test_ignores_records_of_a_removed_device(disks: Disks) -> None:
    first = disks.add()
    mkfs("ext4", first)
    identity = disks.record(first)["ID_FS_UUID"]
    shutil.copy(disks.database / f"b{disks.number(first)}", disks.database / "b999:2")
    assert disks.duplicates(f"UUID={identity}") == sorted((first, "/dev/999:2"))


@pytest.mark.usefixtures("private_mounts")
def test_reports_duplicates_of_a_volume_that_is_already_mounted(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd has mounted it, from the device that the link led to at that moment."""
    monkeypatch.setattr(duplicates, "DATABASE", str(disks.database))
    boot = Boot(tmp_path / "boot", "ext4")
    mounted = mountinfo.mounted_at(str(boot.store))
    assert mounted is not None
    identity = disks.record(mounted.source)["ID_FS_UUID"]
    plan = Plan(
        wipe=[
            MountVolume(
                mount_point=STORE, name="persistent", device=f"UUID={identity}", type="ext4"
            ),
            Store(path=STORE, volume="persistent", id=IDENTITY),
        ],
        persist=[],
    )

    def wipe() -> str:
        report = Report("wipe", None, "boot", boot=False)
        words = CommandLine("noresume")
        stage = Stage(
            plan, words, report, target=str(boot.target), run=str(boot.run), boot_id="boot"
        )
        try:
            return wipe_stage.run(stage)
        finally:
            stage.close()

    try:
        assert wipe() == "nothing to wipe"
        subprocess.run(["sync", "-f", boot.store], check=True)
        copy = disks.add(boot.images[boot.store])
        disks.record(copy)
        with pytest.raises(StoreMissing, match="matches several devices") as refused:
            wipe()
        assert mounted.source in refused.value.message
        assert copy in refused.value.message
    finally:
        boot.unmount()
