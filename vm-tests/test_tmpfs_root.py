"""A root in memory: boots of a Debian whose /usr is a read-only subvolume, with both of dracut's
inits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import proof
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import make
from vm.inits import GENERIC, WITHOUT_SYSTEMD
from vm.machine import Machine
from vm.mounted_roots import PERSISTENT, TMPFS, TMPFS_ROOT, install, tmpfs_layout
from vm.system import System

DiskFactory = Callable[..., Disk]

LOST = ("/lost", "/srv/lost", "/opt/lost")
KEPT = ("/etc/diary", "/var/log/diary", "/root/diary", "/home/talyz/diary")


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
    # One tmpfs, and no second one that systemd has mounted below or above it.
    assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"


def check_report(machine: Machine) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
    journal = machine.journal()
    assert journal.count("wipe: wiped") == 1, journal
    assert journal.count("persist: ") == 1, journal
    assert journal.index("wipe: wiped") < journal.index("persist: "), journal


@pytest.mark.parametrize(
    ("options", "boots"),
    [
        pytest.param((), proof.rounds(2, 3), id="systemd"),
        pytest.param((*WITHOUT_SYSTEMD, *GENERIC), 2, id="shell", marks=pytest.mark.proof),
    ],
)
def test_boots_repeatedly_with_a_root_in_memory(
    bench: Bench,
    cache: Cache,
    image: System,
    package: Path,
    disk: DiskFactory,
    name: str,
    options: tuple[str, ...],
    boots: int,
) -> None:
    """Only a boot shows a tmpfs as the root, which no initramfs mounts by itself."""
    ready = make(cache, image, package, TMPFS, adopted=PERSISTENT)
    disks = (disk(tmpfs_layout(ready), ready.system),)
    install(disks[0])
    boot = Boot(ready.system, ready.initrd(cache, options), disks, root=TMPFS_ROOT)
    identities = set()
    for number in range(1, boots + 1):
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
