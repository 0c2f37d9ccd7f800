"""The harness itself, on a Debian without Ephemeroot: if one of these fails, no other result is
valid.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vm import initramfs
from vm.bench import Bench, Boot
from vm.cpio import Link
from vm.disk import Disk, Swap
from vm.layer import Content
from vm.machine import CommandInMachineFailed
from vm.system import System
from vm.verdict import MachineLost

DiskFactory = Callable[..., Disk]


@pytest.mark.proof
def test_boots_answers_and_keeps_written_files(
    bench: Bench, image: System, plain_initrd: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows that a machine answers, keeps its disk and can be inspected."""
    boot = Boot(image, plain_initrd, (disk(),))

    first = bench.up(boot, name)
    assert first.settle() == "running", first.failed_units()
    assert first.run("findmnt -no FSROOT /").out == "/root\n"
    # systemd's own remount made it writable; a superblock that stayed read-only would show here
    first.write("/var/tmp/kept", "of the first boot\n", mode=0o600)
    assert first.run("stat -c %a /var/tmp/kept").out == "600\n"
    with pytest.raises(CommandInMachineFailed):
        first.run("false")
    assert first.run("sleep 60", timeout=1, check=False).rc == 124
    end = first.poweroff()
    assert end.how == "poweroff"
    assert end.complaints == ()
    assert (
        "All filesystems, swaps, loop devices, MD devices and DM devices detached." in end.console
    )

    with boot.disks[0].mounted() as top:
        assert (top / "root/var/tmp/kept").read_text() == "of the first boot\n"
        (top / "root/var/tmp/from-outside").write_text("seen\n")

    second = bench.up(boot, name)
    assert second.hello["boot_id"] != first.hello["boot_id"]
    assert second.read("/var/tmp/kept") == b"of the first boot\n"
    assert second.read("/var/tmp/from-outside") == b"seen\n"
    # As if it had stopped answering.
    journal = second.remember()
    assert journal is not None
    assert b"Switching root" in journal.read_bytes()
    assert second.run("true").rc == 0
    second.cut()


@pytest.mark.proof
def test_failed_initramfs_is_an_emergency_with_its_journal(
    bench: Bench, image: System, plain_initrd: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows the reporter in an initramfs that fails."""
    boot = Boot(
        image, plain_initrd, (disk(),), root=("root=/dev/vda", "rootflags=subvol=missing", "ro")
    )
    emergency = bench.emergency(boot, name)
    assert emergency.stage == "initramfs"
    assert "sysroot.mount" in emergency.failed
    assert "sysroot.mount" in emergency.journal
    assert emergency.report is None


@pytest.mark.proof
def test_failed_system_is_an_emergency_of_the_system(
    bench: Bench, image: System, plain_initrd: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows the reporter in a system that fails."""
    boot = Boot(image, plain_initrd, (disk(),), arguments=("systemd.unit=emergency.target",))
    assert bench.emergency(boot, name).stage == "system"


@pytest.mark.proof
def test_files_laid_over_an_initramfs_replace_its_own(
    bench: Bench, image: System, plain_initrd: Path, disk: DiskFactory, scratch: Path, name: str
) -> None:
    """Only a boot shows from which of two archives the kernel takes a file."""
    unit = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/usr/bin/false\n"
    members: dict[str, Content | Link] = {
        "usr/lib/systemd/system/dracut-pre-udev.service": unit
        + "[Unit]\nOnFailure=emergency.target\n",
        "etc/laid-over": "here\n",
        "etc/link-laid-over": Link("laid-over"),
    }
    broken = initramfs.overlay(plain_initrd, members, scratch / "broken")
    emergency = bench.emergency(Boot(image, broken, (disk(),)), name)
    assert "dracut-pre-udev.service" in emergency.failed


@pytest.mark.proof
def test_a_system_changed_by_a_program_boots(
    bench: Bench, image: System, disk: DiskFactory, name: str
) -> None:
    """Without a boot: the layers are examined on this host."""
    script = (
        "echo new > /etc/made; rm /etc/hosts; rm -r /etc/dracut.conf.d; mkdir /etc/dracut.conf.d"
    )
    changed = image.changed_by(bench.cache, "sh", "-c", script)
    with disk(system=changed).mounted() as top:
        assert (top / "root/etc/made").read_text() == "new\n"
        assert not (top / "root/etc/hosts").exists()
        assert list((top / "root/etc/dracut.conf.d").iterdir()) == []
        assert (top / "root/etc/hostname").read_text() == "debian\n"
        assert (top / "root/tmp").stat().st_mode & 0o7777 == 0o1777
    assert changed.run(bench.cache, "cat", "/etc/made") == "new\n"


@pytest.mark.proof
def test_a_hibernated_machine_resumes(
    bench: Bench, image: System, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows hibernation."""
    initrd = initramfs.make(bench.cache, image, ("--add", "resume"))
    disks = (disk(), disk(Swap()))
    boot = Boot(image, initrd, disks, arguments=("resume=/dev/vdb",), sessions=True)
    first = bench.up(boot, name)
    first.settle()
    first.run("swapon /dev/vdb; echo alive > /dev/shm/in-memory")
    assert first.hibernate().how == "poweroff"
    second = bench.up(boot, name)
    assert second.hello["boot_id"] == first.hello["boot_id"]
    assert second.hello["pid"] == first.hello["pid"]
    assert second.read("/dev/shm/in-memory") == b"alive\n"
    assert second.poweroff().complaints == ()


@pytest.mark.proof
def test_panic_is_a_lost_machine(
    bench: Bench, image: System, plain_initrd: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows a panic of the kernel."""
    machine = bench.up(Boot(image, plain_initrd, (disk(),)), name)
    with pytest.raises(MachineLost, match="panicked"):
        machine.run("echo c > /proc/sysrq-trigger")


@pytest.mark.proof
def test_boot_that_panics_is_lost(
    bench: Bench, image: System, plain_initrd: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows a panic before the first answer."""
    words = ("rdinit=/missing", "init=/missing", "root=")
    with pytest.raises(MachineLost, match="panicked"):
        bench.boot(Boot(image, plain_initrd, (disk(),), arguments=words), name)
