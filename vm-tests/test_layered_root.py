"""An overlay root whose boots alternate with the installed root, with layers in memory, and with
another system's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import proof
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import make
from vm.filesystems import Ext4Files
from vm.machine import Machine
from vm.mounted_roots import OVERLAY_ROOT, Ext4
from vm.system import System

DiskFactory = Callable[..., Disk]

LAYERED = """\
[root]
wiper = "overlay"
# QEMU has the kernel and the initramfs
external-boot = true

[root.overlay]
volume = "/persistent"

[[volumes]]
mount-point = "/persistent"
device = "/dev/vdb"
type = "ext4"
timeout = "20s"

[persistence."/persistent"]
directories = ["/home"]
files = ["/etc/machine-id"]
"""

# The layers are on the volume of another system.
ELSEWHERE = LAYERED.replace(
    'volume = "/persistent"',
    'volume = "/layers"\n\n[[volumes]]\nmount-point = "/layers"\n'
    'device = "/dev/vdc"\ntype = "ext4"',
)

DECLARE = 's|directories = \\["/home"\\]|directories = ["/home", "/opt/app"]|'

FILL = """\
dd if=/dev/zero of=/persistent/ballast bs=1M 2>/dev/null
dd if=/dev/zero of=/persistent/ballast2 bs=1k 2>/dev/null
i=0; while mkdir /persistent/full-$i 2>/dev/null; do i=$((i + 1)); done; sync
"""


def up(bench: Bench, boot: Boot, name: str, kind: str = "overlay") -> Machine:
    machine = bench.up(boot, name)
    machine.settle()
    assert machine.run("findmnt -no FSTYPE /").out.strip() == kind
    return machine


def in_memory(machine: Machine, reason: str) -> None:
    """Check the messages of a boot that failed to make a layer on a disk; leave a file in it."""
    shown = machine.run("ephemeroot status --json", check=False)
    assert shown.rc == 10
    status = json.loads(shown.out)
    assert status["root"] == "in-memory"
    assert reason in status["reason"]
    assert "layer in memory" in machine.console.read_text(errors="replace")
    assert json.loads(machine.read("/run/ephemeroot/wiped"))["/"]["fallback"]
    assert "ephemeroot-wipe.service" not in machine.failed_units()
    machine.run("echo x > /etc/lost; rm /etc/hosts")


@pytest.mark.proof
def test_kept_boots_and_a_full_volume(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows which root is mounted after each, with its fstab and its units."""
    ready = make(cache, image, package, LAYERED)
    later = ready.applied_again(cache, f"sed -i '{DECLARE}' /etc/ephemeroot/ephemeroot.toml")
    disks = (
        disk(Ext4(), ready.system),
        disk(Ext4Files("store", ready.store, "64M"), ready.system),
    )
    boot = Boot(ready.system, ready.initrd(cache), disks, root=OVERLAY_ROOT)
    machine = up(bench, boot, name)
    machine.run("echo layer > /etc/lost; mkdir /opt/app; echo layer > /opt/app/data")
    machine.poweroff()

    for number in range(proof.rounds(1, 3)):
        machine = up(bench, replace(boot, arguments=("ephemeroot.wipe=no",)), name, "ext4")
        assert machine.run("test -e /etc/lost", check=False).rc != 0
        machine.run(f"mkdir -p /opt/app; echo kept {number} > /opt/app/data")
        machine.poweroff()

    boot = replace(boot, initrd=later.initrd(cache))
    machine = up(bench, boot, name)
    assert machine.read("/opt/app/data").decode() == f"kept {number}\n"
    assert machine.run("findmnt -no FSROOT /opt/app").out.strip() == "/opt/app"
    machine.run("echo of the third > /opt/app/data")
    machine.run(FILL, timeout=120)
    machine.poweroff()

    with disks[0].mounted("ext4", "ro") as top:
        before = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    machine = up(bench, boot, name)
    in_memory(machine, "no space")
    assert machine.read("/opt/app/data") == b"of the third\n"
    machine.poweroff()
    with disks[0].mounted("ext4", "ro") as top:
        after = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    assert after == before, "the installed root was not written to"
    if not proof.is_whole():
        return
    with disks[1].mounted("ext4", "rw") as top:
        (top / "ballast").unlink()
    machine = up(bench, boot, name)
    assert (
        json.loads(machine.run("ephemeroot status --json", check=False).out)["root"] == "ephemeral"
    )
    assert machine.run("test -e /etc/lost", check=False).rc != 0
    machine.poweroff()


@pytest.mark.proof
def test_two_systems_on_one_layer_volume(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows the units of two images with one volume."""
    first, second = (
        make(cache, image, package, text, stores=stores)
        for text, stores in ((LAYERED, ("/persistent",)), (ELSEWHERE, ("/persistent",)))
    )
    layers = disk(Ext4Files("store", first.store, "64M"), first.system)
    one = Boot(first.system, first.initrd(cache), (disk(Ext4(), first.system), layers),
               root=OVERLAY_ROOT)  # fmt: skip
    own = (disk(Ext4(), second.system), disk(Ext4Files("own", second.store, "64M"), second.system))
    two = Boot(second.system, second.initrd(cache), (*own, layers), root=OVERLAY_ROOT)
    for number in range(2):
        machine = up(bench, one, name)
        assert machine.run("test -e /etc/lost", check=False).rc != 0
        machine.run(f"echo first {number} > /etc/lost")
        machine.poweroff()
    machine = up(bench, two, name)
    in_memory(machine, "the history of another system")
    assert machine.run("systemctl start ephemeroot-prune", check=False).rc in (0, 1)
    machine.poweroff()
    with layers.mounted("ext4", "ro") as top:
        old = top / "ephemeroot-overlay/old-uppers"
        assert [(p / "etc/lost").read_text() for p in old.iterdir()] == ["first 0\n"]
    machine = up(bench, one, name)
    assert (
        json.loads(machine.run("ephemeroot status --json", check=False).out)["root"] == "ephemeral"
    )
    machine.poweroff()
