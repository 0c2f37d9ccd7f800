"""A stock installation on ext4 that stays as it is below an overlay: three boots of Debian."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import run
from vm.disk import Disk
from vm.ephemeral import STORE_UUID, make
from vm.loop import mounted
from vm.machine import Machine
from vm.system import System
from vm.tools import Tools

DiskFactory = Callable[..., Disk]

CONFIGURATION = f"""\
[root]
wiper = "overlay"
# QEMU has the kernel and the initramfs
external-boot = true

[root.overlay]
volume = "/persistent"

[[volumes]]
mount-point = "/persistent"
device = "UUID={STORE_UUID}"
type = "btrfs"
options = ["subvol=persistent"]
timeout = "20s"

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""

LOST = ("/etc/lost", "/usr/lost", "/root/lost")
KEPT = ("/var/log/diary", "/home/talyz/diary")


@dataclass(frozen=True)
class Ext4:
    """The system on an ext4 over the whole disk, with the line that Debian's installer writes."""

    size: str = "1500M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`."""
        run(["mkfs.ext4", "-q", "-F", image])
        with mounted(image, "ext4", "rw") as top:
            system.copy_to(cache, top)
            (top / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
            (top / "etc/lost").unlink(missing_ok=True)


def check_mounts(machine: Machine) -> None:
    assert machine.run("findmnt -no FSTYPE /").out.split() == ["overlay"]
    assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"
    options = machine.run("findmnt -no OPTIONS /").out
    assert "rw" in options.strip().split(",")
    assert machine.run("findmnt -no FSROOT /var/log").out.strip() == "/persistent/var/log"


def check_report(machine: Machine, retired: bool) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
    assert bool(said["wipe"]["wiped /"]["retired"]) == retired
    journal = machine.journal("-u ephemeroot-wipe.service -u ephemeroot-persist")
    assert journal.count("wipe: wiped") == 1, journal
    assert journal.index("wipe: wiped") < journal.index("persist: "), journal
    machine.run("systemctl is-active ephemeroot-lived.service")


def test_three_boots(
    bench: Bench, cache: Cache, image: System, wheel: Path, disk: DiskFactory, name: str
) -> None:
    ready = make(cache, image, wheel, CONFIGURATION)
    disks = (disk(Ext4(), ready.system), disk(ready.store_disk(), ready.system))
    root = ("root=/dev/vda", "rootfstype=ext4", "ro")
    boot = Boot(ready.system, ready.initrd(cache), disks, root=root)
    with disks[0].mounted("ext4", "ro") as top:
        before = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    for number in (1, 2, 3):
        machine = bench.up(boot, name)
        assert machine.settle() == "running", machine.failed_units()
        check_report(machine, retired=number > 1)
        check_mounts(machine)
        assert machine.run(f"ls -d {' '.join(LOST)}", check=False).out == ""
        machine.run(f"for f in {' '.join(LOST)}; do echo day {number} > $f; done; rm /etc/hosts")
        machine.run(f"echo day {number} | tee -a {' '.join(KEPT)}")
        expected = "".join(f"day {day}\n" for day in range(1, number + 1)).encode()
        assert [machine.read(path) for path in KEPT] == [expected] * len(KEPT)
        print(f"\nboot {number}: login after {machine.boot_time:.1f} s")
        assert machine.poweroff().complaints == ()
    with disks[0].mounted("ext4", "ro") as top:
        after = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    assert after == before, "the installed root was never written to"
    with disks[1].mounted() as top:
        old = top / "persistent/ephemeroot-overlay/old-uppers"
        assert sorted((p / "etc/lost").read_text() for p in old.iterdir()) == ["day 1\n", "day 2\n"]
        assert not [p.name for p in old.iterdir() if "unused" in p.name]
