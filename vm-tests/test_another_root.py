"""A root that the plan does not name boots unchanged, with an image made for the plan's
own root.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import CONFIGURATION, UUID, Ephemeral, make
from vm.system import System

DiskFactory = Callable[..., Disk]

SNAPSHOT = "snapshots/7/snapshot"
WORDS = f"root=UUID={UUID} rootflags=subvol=root ro\n"
OWN = ("root=/dev/vda", "rootflags=subvol=root", "ro")
OTHER = ("root=/dev/vda", f"rootflags=subvol={SNAPSHOT}", "ro")


@pytest.fixture(scope="session")
def named(cache: Cache, image: System, package: Path) -> Ephemeral:
    """A machine whose plan names the root for which it was applied."""
    return make(cache, image, package, CONFIGURATION, others={"etc/kernel/cmdline": WORDS})


def test_a_snapshot_in_the_boot_menu_boots_unchanged(
    bench: Bench, cache: Cache, named: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows that units, generators and the real system's services leave such a root
    alone, with an image whose store, devices and checks all exist.
    """
    disks = (disk(named.layout(), named.system),)
    own = Boot(named.system, named.initrd(cache), disks, root=OWN)
    machine = bench.up(own, name)
    assert machine.settle() == "running", machine.failed_units()
    machine.run("echo of today > /etc/work; echo of the store > /var/log/kept")
    parent = SNAPSHOT.rpartition("/")[0]
    machine.run(f"mkdir -p /mnt && mount -o subvolid=5 /dev/vda /mnt && mkdir -p /mnt/{parent}")
    machine.run(f"btrfs subvolume snapshot / /mnt/{SNAPSHOT} && umount /mnt")
    machine.poweroff()
    with disks[0].mounted() as top:
        before = sorted(path.name for path in (top / "old_roots").iterdir())

    machine = bench.up(replace(own, root=OTHER), name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.run("findmnt -no FSROOT /").out.strip() == f"/{SNAPSHOT}"
    assert machine.read("/etc/work") == b"of today\n"
    assert machine.run("findmnt /var/log", check=False).rc != 0, "nothing is bound"
    assert machine.run("findmnt /persistent", check=False).rc != 0, "no store is mounted"
    assert "the root boots unchanged" in machine.journal()
    assert "the root boots unchanged" in machine.console.read_text(errors="replace")
    status = json.loads(machine.run("ephemeroot status --json").out)
    assert (status["root"], status["complaints"]) == ("foreign", [])
    applied = machine.run("ephemeroot apply --yes --no-images", check=False)
    assert applied.rc == 1
    assert "this boot has another root" in applied.err
    for unit in ("ephemeroot-boot-complete", "ephemeroot-prune"):
        shown = machine.run(f"systemctl show -P ConditionResult {unit}.service").out.strip()
        assert shown == "no", f"{unit} was started"
    machine.run("echo of the snapshot > /etc/work")
    machine.poweroff()
    with disks[0].mounted() as top:
        assert sorted(path.name for path in (top / "old_roots").iterdir()) == before
        assert (top / SNAPSHOT / "etc/work").read_text() == "of the snapshot\n"
        assert (top / "root/etc/work").read_text() == "of today\n"

    machine = bench.up(own, name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.run("test -e /etc/work", check=False).rc != 0, "the root is fresh"
    assert machine.read("/var/log/kept") == b"of the store\n"
    machine.poweroff()
    with disks[0].mounted() as top:
        assert len(list((top / "old_roots").iterdir())) == len(before) + 1
        assert (top / SNAPSHOT / "etc/work").read_text() == "of the snapshot\n"
