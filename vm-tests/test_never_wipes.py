"""The boots that must not wipe, each with a message that says why.

Either the machine boots the unchanged root, or it stops in the emergency shell with nothing
changed; both are checked from inside, and the disk is examined afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vm import initramfs
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import run
from vm.disk import Disk, Swap
from vm.ephemeral import CONFIGURATION, STORE_UUID, UUID, Ephemeral, make
from vm.layer import Content
from vm.machine import Machine
from vm.system import System
from vm.verdict import Emergency

DiskFactory = Callable[..., Disk]

STRAY = "of the root that must stay\n"
ABSENT = "UUID=01234567-89ab-cdef-0123-456789abcdef"


@dataclass
class Case:
    """One boot of one disk, which is examined before and after."""

    bench: Bench
    boot: Boot
    name: str
    scratch: Path

    @property
    def disk(self) -> Disk:
        return self.boot.disks[0]

    def laid_over(self, members: Mapping[str, Content]) -> Case:
        """The same with files of the initramfs replaced."""
        initrd = initramfs.overlay(self.boot.initrd, members, self.scratch / "initrd")
        return replace(self, boot=replace(self.boot, initrd=initrd))

    def with_words(self, *words: str) -> Case:
        return replace(self, boot=replace(self.boot, arguments=(*self.boot.arguments, *words)))

    def up(self) -> Machine:
        return self.bench.up(self.boot, self.name)

    def emergency(self) -> Emergency:
        return self.bench.emergency(self.boot, self.name)

    def assert_nothing_wiped(self) -> None:
        with self.disk.mounted() as top:
            assert (top / "root/etc/stray").read_text() == STRAY
            assert not list((top / "old_roots").glob("*"))
            assert not [p for p in top.iterdir() if p.name.startswith(".")]

    def assert_kept(self, message: str) -> None:
        """The machine boots the unchanged root, reports that, and has the persistent paths in
        place.
        """
        machine = self.up()
        assert machine.settle() == "running", machine.failed_units()
        assert machine.read("/etc/stray") == STRAY.encode()
        journal = machine.journal()
        assert message in journal
        assert "the root is kept" in journal
        assert message in machine.console.read_text(errors="replace"), "said on the console too"
        assert machine.run("findmnt -no FSROOT /var/log").out.strip() == "/persistent/var/log"
        assert machine.poweroff().complaints == ()
        self.assert_nothing_wiped()

    def assert_emergency(self, *messages: str) -> Emergency:
        """The machine stops in the emergency shell, and nothing was wiped."""
        emergency = self.emergency()
        assert emergency.stage == "initramfs"
        console = emergency.console.read_text(errors="replace")
        for message in messages:
            assert message in emergency.journal, str(emergency)
            assert message in console, str(emergency)
        self.assert_nothing_wiped()
        return emergency


def case(
    bench: Bench, cache: Cache, machine: Ephemeral, disk: DiskFactory, name: str, scratch: Path
) -> Case:
    disks = (disk(machine.layout(), machine.system),)
    with disks[0].mounted() as top:
        (top / "root/etc/stray").write_text(STRAY)
    return Case(bench, Boot(machine.system, machine.initrd(cache), disks), name, scratch)


@pytest.fixture
def ready(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str, scratch: Path
) -> Case:
    """A machine without faults."""
    return case(bench, cache, ephemeral, disk, name, scratch)


@pytest.fixture(scope="session")
def two_disks(cache: Cache, image: System, package: Path) -> Ephemeral:
    """A machine whose store is on a separate disk, with a short timeout."""
    text = CONFIGURATION.replace(UUID, STORE_UUID).replace('timeout = "20s"', 'timeout = "5s"')
    return make(cache, image, package, text)


def test_the_device_of_the_store_is_missing(
    bench: Bench, cache: Cache, two_disks: Ephemeral, disk: DiskFactory, name: str, scratch: Path
) -> None:
    """Only a boot shows waiting for a device that udev never announces, and the emergency."""
    ready = case(bench, cache, two_disks, disk, name, scratch)
    emergency = ready.assert_emergency(
        f"the device UUID={STORE_UUID} of /persistent is missing",
        "append ephemeroot=no to the kernel command line",
    )
    assert emergency.report["wipe"]["policy"] == "emergency"
    assert "vda" in emergency.report["wipe"]["problems"][0]["problem"]


@pytest.mark.proof
def test_the_device_of_the_root_is_missing(ready: Case) -> None:
    """dracut's loop gives up; before its shell, a message gives the reason and lists the devices.

    Only a boot shows dracut's loop for the root device together with our units.
    """
    emergency = ready.with_words("rd.retry=5", f"root={ABSENT}").assert_emergency(
        f"the root's device {ABSENT} is missing (block devices found: vda",
        "to boot another root, change root= on the kernel command line",
    )
    assert emergency.report["wipe"]["policy"] == "emergency", "there is none that could be kept"


@pytest.mark.proof
def test_the_store_is_missing(ready: Case) -> None:
    """Only a boot shows the emergency; without a boot in tests/hooks/test_stages.py."""
    with ready.disk.mounted() as top:
        (top / "persistent").rename(top / "elsewhere")
    ready.assert_emergency(
        f"cannot mount UUID={UUID}", "append ephemeroot=no to the kernel command line"
    )


@pytest.mark.proof
def test_another_subvolume_where_the_store_should_be(ready: Case) -> None:
    """Only a boot shows the emergency; without a boot in tests/hooks/test_stages.py."""
    other = {"version": 1, "id": "00000000-0000-4000-8000-000000000000", "path": "/persistent"}
    with ready.disk.mounted() as top:
        (top / "persistent").rename(top / "mine")
        run(["btrfs", "subvolume", "create", top / "persistent"])
        (top / "persistent/.ephemeroot-store").write_text(json.dumps(other))
    ready.assert_emergency("another store is mounted for /persistent")


def test_a_kernel_newer_than_the_base(ready: Case) -> None:
    """Only a boot shows a machine that boots the kept root."""
    with ready.disk.mounted() as top:
        modules = top / "root-base/usr/lib/modules"
        (modules / ready.boot.system.release).rename(modules / "6.1.0-older")
    ready.assert_kept(f"has no modules for the running kernel {ready.boot.system.release}")


def test_an_interpreter_that_does_not_start(ready: Case) -> None:
    """Only a boot shows the units' conditions and the shell when Python does not start."""
    broken = ready.laid_over({"usr/bin/python3.13": "no interpreter\n"})
    broken.assert_emergency(
        "the root is kept",
        "persist failed",
        "append ephemeroot=no to the kernel command line",
    )


@pytest.mark.proof
def test_the_words_of_the_emergency_message_boot_without_an_interpreter(ready: Case) -> None:
    """Only a boot shows that the words on the console start the machine."""
    broken = ready.laid_over({"usr/bin/python3.13": "no interpreter\n"})
    machine = broken.with_words("ephemeroot=no").up()
    assert machine.settle() == "running", machine.failed_units()
    assert machine.read("/etc/stray") == STRAY.encode()
    assert machine.run("findmnt /var/log", check=False).rc != 0
    machine.poweroff()
    ready.assert_nothing_wiped()


@pytest.mark.proof
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format":"ephemeroot-plan","version":1,', "plan.json is damaged"),
        (
            '{"format":"ephemeroot-plan","version":99}',
            "has version 99, but this program supports version",
        ),
    ],
    ids=["damaged", "newer"],
)
def test_a_plan_that_cannot_be_used(ready: Case, content: str, message: str) -> None:
    """Only a boot shows the emergency; without a boot in tests/hooks/test_entry.py."""
    ready.laid_over({"usr/lib/ephemeroot/plan.json": content}).assert_emergency(message)


@pytest.mark.proof
def test_wipe_no_keeps_the_root(ready: Case) -> None:
    """Only a boot shows a machine that boots the kept root, with persistent paths in place."""
    machine = ready.with_words("ephemeroot.wipe=no").up()
    assert machine.settle() == "running", machine.failed_units()
    assert machine.read("/etc/stray") == STRAY.encode()
    assert "root kept: ephemeroot.wipe=no" in machine.journal()
    assert machine.run("findmnt -no FSROOT /var/log").out.strip() == "/persistent/var/log"
    assert machine.poweroff().complaints == ()
    ready.assert_nothing_wiped()


@pytest.fixture
def hibernating(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str, scratch: Path
) -> Case:
    """A machine with swap on a second disk, named on the command line of every boot."""
    ready = case(bench, cache, ephemeral, disk, name, scratch)
    boot = replace(
        ready.boot,
        initrd=ephemeral.initrd(cache, ("--add", "resume")),
        disks=(ready.disk, disk(Swap())),
        arguments=("resume=/dev/vdb",),
        sessions=True,
    )
    return replace(ready, boot=boot)


def test_a_machine_that_resumes_is_not_wiped(hibernating: Case) -> None:
    """Only a boot shows hibernation: memory and filesystem continue in their previous state."""
    first = hibernating.up()
    first.settle()
    assert "wipe: wiped" in first.journal()
    first.run("swapon /dev/vdb; echo alive > /dev/shm/in-memory; echo unsaved > /root/unsaved")
    process = first.run("sleep 9999 >/dev/null 2>&1 & echo $!").out.strip()
    assert first.hibernate().how == "poweroff"
    second = hibernating.up()
    assert second.hello["boot_id"] == first.hello["boot_id"]
    assert second.read("/dev/shm/in-memory") == b"alive\n"
    assert second.run(f"cat /proc/{process}/comm").out == "sleep\n"
    # The filesystem of the resumed kernel is in its previous state.
    assert second.read("/root/unsaved") == b"unsaved\n"
    second.run("echo more >> /root/unsaved; sync; btrfs device stats --check /")
    assert second.journal().count("wipe: wiped") == 1
    assert second.poweroff().complaints == ()
    with hibernating.disk.mounted() as top:
        assert len(list((top / "old_roots").iterdir())) == 1, "only the first boot has wiped"
        assert (top / "root/root/unsaved").read_text() == "unsaved\nmore\n"


@pytest.mark.proof
def test_an_initramfs_that_cannot_resume_keeps_the_root(
    hibernating: Case, ephemeral: Ephemeral, cache: Cache
) -> None:
    """The other check: if nothing in the initramfs resumes, the signature on the swap device keeps
    the root.

    Only a boot shows a real hibernation image on real swap.
    """
    first = hibernating.up()
    first.settle()
    first.run("swapon /dev/vdb; echo unsaved > /root/unsaved; sync")
    assert first.hibernate().how == "poweroff"
    blind = replace(hibernating.boot, initrd=ephemeral.initrd(cache))
    second = replace(hibernating, boot=blind).up()
    assert second.hello["boot_id"] != first.hello["boot_id"]
    assert "holds a hibernation image, which needs the present root" in second.journal()
    assert second.read("/root/unsaved") == b"unsaved\n"
    second.poweroff()


@pytest.mark.proof
def test_a_stale_image_with_noresume_wipes(hibernating: Case) -> None:
    """Only a boot shows `noresume` with a real hibernation image."""
    first = hibernating.up()
    first.settle()
    first.run("swapon /dev/vdb; echo forget > /root/forgotten")
    assert first.hibernate().how == "poweroff"
    second = hibernating.with_words("noresume").up()
    assert second.hello["boot_id"] != first.hello["boot_id"]
    assert "wipe: wiped" in second.journal()
    assert second.run("ls /root/forgotten", check=False).rc != 0
    second.poweroff()
