"""A stock Debian on one ext4, without a free partition, becomes ephemeral by the commands of
`init`.

Its /boot, its kernels' modules and its store are directories of the installed root, which otherwise
only a boot with a kept root changes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import proof
from vm import disk as disks
from vm import project
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import run
from vm.disk import Disk
from vm.image import VOLUMES, debian_system
from vm.installed import Installed, installed
from vm.loop import mounted
from vm.machine import Machine
from vm.system import System
from vm.tools import Tools

UUID = "9d3c5b7a-1e2f-4a6b-8c0d-2e4f6a8b0c1d"
ROOT = (f"root=UUID={UUID}", "ro")

DRACUT = """\
hostonly="yes"
hostonly_cmdline="no"
i18n_install_all="no"
early_microcode="no"
compress="cat"
filesystems+=" ext4 "
add_drivers+=" virtio_blk ext4 overlay "
add_dracutmodules+=" vm-harness "
"""

# There is no boot loader, the test switches the machine off and on, and an editor needs a person.
_NOT_HERE = ("grub-install", "update-grub", "reboot", '"${EDITOR')

KEPT = ("/boot/kept", "/usr/lib/modules/kept", "/persistent/kept", "/var/log/kept")
LOST = ("/etc/lost", "/usr/lost", "/var/lib/lost")


@dataclass(frozen=True)
class Stock:
    """The system on one ext4 over the whole disk, as Debian's installer leaves it."""

    size: str = "1800M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`."""
        run(["mkfs.ext4", "-q", "-F", "-U", UUID, image])
        with mounted(image, "ext4", "rw") as top:
            system.copy_to(cache, top)
            (top / "etc/fstab").write_text(f"UUID={UUID} / ext4 errors=remount-ro 0 1\n")
            (top / "etc/dracut.conf.d/machine.conf").write_text(DRACUT)


def convert(machine: Installed, release: str) -> None:
    """Run the commands that `init` prints, unchanged."""
    machine.run(f"touch /boot/vmlinuz-{release}")
    machine.run(f"dracut --force /boot/initrd.img-{release} {release}")
    # This host's kernel runs it until the first boot.
    machine.run(
        "cd /usr/lib/modules && mkdir $(uname -r) && "
        "printf 'kernel/fs/%s.ko\\n' ext4/ext4 overlayfs/overlay > $(uname -r)/modules.builtin"
    )
    for step in json.loads(machine.run("ephemeroot init --json"))["steps"]:
        for command in step["commands"]:
            if not command.startswith(_NOT_HERE):
                asked = f"{command} --yes" if command == "ephemeroot apply" else command
                print(f"$ {asked}\n{machine.run(asked)}")


@pytest.mark.proof
def test_from_a_stock_installation(
    bench: Bench, cache: Cache, package: Path, scratch: Path, name: str
) -> None:
    """Only a boot shows that systemd accepts directories of the root that are mounted in it, and
    that an upgrade of the installed root takes effect.
    """
    system = project.installed(cache, debian_system(cache, VOLUMES), package, {})
    disk = disks.prepared(cache, Stock(), bench.tools, system).copy(scratch / "disk.raw")
    with installed(cache, disk, "", UUID, " ".join(ROOT), "ext4") as machine:
        convert(machine, system.release)
    boot = Boot(system, image_of(disk, scratch, system.release), (disk,), root=ROOT)
    first(bench, boot, name)
    upgrade(bench, boot, name)
    if proof.is_whole():
        after(bench, boot, name)
    with disk.mounted("ext4", "ro") as top:
        assert all((top / path[1:]).exists() for path in KEPT[:3])
        assert not any((top / path[1:]).exists() for path in LOST)
        assert (top / "etc/upgraded").exists()


def image_of(disk: Disk, scratch: Path, release: str) -> Path:
    """The initramfs that the boot loader would load."""
    with disk.mounted("ext4", "ro") as top:
        return Path(shutil.copy(top / f"boot/initrd.img-{release}", scratch / "initrd"))


def first(bench: Bench, boot: Boot, name: str) -> None:
    machine = bench.up(boot, name)
    require_running(machine)
    require_sound(machine)
    for point, root in (("/boot", "/boot"), ("/persistent", "/persistent")):
        assert machine.run(f"findmnt -no FSTYPE,FSROOT {point}").out.split() == ["ext4", root]
    assert machine.run("findmnt -no FSTYPE /").out.split() == ["overlay"]
    machine.run(f"for f in {' '.join(LOST)} {' '.join(KEPT)}; do echo day 1 > $f; done")
    said = machine.run("ephemeroot diff").out
    assert "lost" in said
    assert "kept" not in said
    print(machine.run("ephemeroot check; ephemeroot status", check=False).out)
    machine.run("ephemeroot next-boot keep")
    assert machine.poweroff().complaints == ()


def upgrade(bench: Bench, boot: Boot, name: str) -> None:
    """Upgrade the installed root itself, mounted writable."""
    machine = bench.up(boot, name)
    require_running(machine)
    assert machine.run("findmnt -no FSTYPE /").out.split() == ["ext4"]
    machine.run("echo new > /etc/upgraded; ls " + " ".join(KEPT[:3]))
    assert machine.run(f"ls {' '.join(LOST)}", check=False).out == ""
    assert machine.poweroff().complaints == ()


def after(bench: Bench, boot: Boot, name: str) -> None:
    """A layer again, above the upgraded root; then `leave`."""
    machine = bench.up(boot, name)
    require_running(machine)
    require_sound(machine)
    assert machine.read("/etc/upgraded") == b"new\n"
    machine.run("ls " + " ".join(KEPT))
    assert machine.poweroff().complaints == ()


def require_running(machine: Machine) -> None:
    said = machine.settle()
    log = "" if said == "running" else machine.run("journalctl -b -u 'ephemeroot-*'").out
    assert said == "running", f"{machine.failed_units()}\n{log}"


def require_sound(machine: Machine) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
