"""A root in memory: three boots of Debian whose /usr is a read-only subvolume."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import btrfsutil

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Btrfs, Disk, Subvolume
from vm.ephemeral import UUID, make
from vm.machine import Machine
from vm.system import System

DiskFactory = Callable[..., Disk]

CONFIGURATION = f"""\
[root]
wiper = "tmpfs"
# QEMU has the kernel and the initramfs
external-boot = true

[root.tmpfs]
size = "200M"

[[volumes]]
mount-point = "/usr"
device = "UUID={UUID}"
type = "btrfs"
options = ["subvol=usr", "ro"]

[[volumes]]
mount-point = "/persistent"
device = "UUID={UUID}"
type = "btrfs"
options = ["subvol=persistent"]

[persistence."/persistent"]
directories = ["/etc", "/var", "/root", "/home"]
"""

PERSISTENT = ("etc", "var", "root", "home")
LOST = ("/lost", "/srv/lost", "/opt/lost")
KEPT = ("/etc/diary", "/var/log/diary", "/root/diary", "/home/talyz/diary")


def install(disk: Disk) -> None:
    """What an administrator does: /usr gets a subvolume, and the store what is declared."""
    with disk.mounted() as top:
        btrfsutil.create_subvolume(str(top / "usr"))
        copy = ["cp", "--archive", "--reflink=auto"]
        subprocess.run([*copy, f"{top}/system/usr/.", top / "usr"], check=True)
        for name in PERSISTENT:
            subprocess.run([*copy, top / "system" / name, top / "persistent"], check=True)
        btrfsutil.set_subvolume_read_only(str(top / "usr"), True)


def check_mounts(machine: Machine) -> None:
    def found(path: str) -> list[str]:
        return machine.run(f"findmnt -no FSTYPE,FSROOT,OPTIONS {path}").out.split()

    kind, _, options = found("/")
    assert kind == "tmpfs"
    assert "size=204800k" in options.split(",")
    kind, subvolume, options = found("/usr")
    assert (kind, subvolume) == ("btrfs", "/usr")
    assert "ro" in options.split(",")
    assert machine.run("touch /usr/x", check=False).rc != 0
    for name in PERSISTENT:
        assert found(f"/{name}")[:2] == ["btrfs", f"/persistent/{name}"]
    # One tmpfs, not a second one that systemd has mounted below or above it.
    assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"


def check_report(machine: Machine) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
    journal = machine.journal("-u ephemeroot-wipe.service -u ephemeroot-persist")
    assert journal.count("wipe: wiped") == 1, journal
    assert journal.count("persist: ") == 1, journal
    assert journal.index("wipe: wiped") < journal.index("persist: "), journal


def test_three_boots(
    bench: Bench, cache: Cache, image: System, wheel: Path, disk: DiskFactory, name: str
) -> None:
    ready = make(cache, image, wheel, CONFIGURATION)
    store = Subvolume("persistent", files=ready.store)
    layout = Btrfs(subvolumes=(Subvolume("system", tree=True), store), uuid=UUID)
    disks = (disk(layout, ready.system),)
    install(disks[0])
    boot = Boot(ready.system, ready.initrd(cache), disks, root=("root=tmpfs", "ro"))
    identities = set()
    for number in (1, 2, 3):
        machine = bench.up(boot, name)
        assert machine.settle() == "running", machine.failed_units()
        check_report(machine)
        check_mounts(machine)
        assert machine.run(f"ls -d {' '.join(LOST)}", check=False).out == ""
        machine.run(f"mkdir -p /srv /opt; for f in {' '.join(LOST)}; do echo lost > $f; done")
        machine.run(f"echo day {number} | tee -a {' '.join(KEPT)}")
        expected = "".join(f"day {day}\n" for day in range(1, number + 1)).encode()
        assert [machine.read(path) for path in KEPT] == [expected] * len(KEPT)
        identities.add(machine.read("/etc/machine-id"))
        print(f"\nboot {number}: login after {machine.boot_time:.1f} s")
        assert machine.poweroff().complaints == ()
    assert len(identities) == 1
    assert len(identities.pop().strip()) == 32
