"""A stock Debian on btrfs becomes ephemeral by the guide, and ordinary again.

The test runs the commands that `ephemeroot init` prints, as the guide says, then the guide's own;
placeholders of the guide (a lost file) are replaced by names of this machine.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from vm import project
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Btrfs, Disk, Subvolume
from vm.installed import Installed, installed
from vm.machine import Machine
from vm.system import System

GUIDE = Path(__file__).resolve().parent.parent / "docs/converting-debian.md"
UUID = "5c1e7d3a-2b4f-4e6d-8a9c-0d1e2f3a4b5c"
ROOT = (f"root=UUID={UUID}", "rootflags=subvol=@rootfs", "ro")

# As the installer writes it, and an image for this machine's disk only, which dracut makes faster.
FILES = {
    "etc/fstab": f"UUID={UUID} / btrfs defaults,subvol=@rootfs 0 0\n",
    "etc/dracut.conf.d/machine.conf": """\
hostonly="yes"
hostonly_cmdline="no"
i18n_install_all="no"
early_microcode="no"
compress="cat"
filesystems+=" btrfs "
add_drivers+=" virtio_blk btrfs overlay "
add_dracutmodules+=" btrfs vm-harness "
""",
}

# The reader decides these, or the harness does them: packages come with the image, there is no boot
# loader, and the test switches the machine off and on.
_BOOT_LOADER = ("grub-install", "update-grub")
_NOT_HERE = ("apt ", '"${EDITOR', "mkdir -p /etc/ephemeroot", "ephemeroot init >", "reboot",
             "ephemeroot base ", "ephemeroot adopt /var/lib/libvirt")  # fmt: skip


def chapter(number: int) -> list[str]:
    """The commands of one chapter of the guide, without those that are marked as illustrations."""
    parts = re.split(r"^## \d+\. .*$", GUIDE.read_text(), flags=re.MULTILINE)
    blocks = re.findall(r"^```sh\n(.*?)^```$", parts[number], re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [line.replace("UUID=…", f"UUID={UUID}") for line in lines]
    assert found, f"chapter {number} has no commands"
    return [line for line in found if not line.startswith(_NOT_HERE)]


def asked(command: str, more: str = "") -> str:
    """The command, with options that suppress questions."""
    arms = command.split()[:2] in (["ephemeroot", "apply"], ["ephemeroot", "leave"])
    return f"{command} --yes {more}" if arms else command


def stock() -> Btrfs:
    return Btrfs(subvolumes=(Subvolume("@rootfs", tree=True, files=FILES),), uuid=UUID)


def convert(machine: Installed, release: str) -> str:
    """Chapters 2 to 6, on the installed system; return the output."""
    said: list[str] = []

    def do(*chapters: int) -> None:
        for command in (command for number in chapters for command in chapter(number)):
            said.extend((f"$ {command}", machine.run(asked(command))))

    # The installer's own work, and chapter 1.
    machine.run(f"touch /boot/vmlinuz-{release}")
    machine.run(f"dracut --force /boot/initrd.img-{release} {release}")
    # Until then this host's kernel runs the system, and the new root must be able to boot that one,
    # too.
    machine.run(
        "mkdir /usr/lib/modules/$(uname -r) && echo kernel/fs/btrfs/btrfs.ko"
        " > /usr/lib/modules/$(uname -r)/modules.builtin"
    )
    machine.run("useradd --create-home ada && echo 'ada:secret' | chpasswd")
    machine.run("mkdir -p /srv/photos /var/lib/forgotten && echo mine > /srv/photos/one")
    do(2)
    refused = machine.run("mkdir -p /etc/ephemeroot; ephemeroot init > /etc/ephemeroot/"
                          "ephemeroot.toml; ephemeroot check", check=False)  # fmt: skip
    assert "the kernel, initramfs or boot loader is on the wiped root" in refused
    steps = json.loads(machine.run("ephemeroot init --json"))["steps"]
    for command in (c for step in steps for c in step["commands"]):
        if command.startswith("ephemeroot apply"):
            break  # chapter 6
        if not command.startswith(('"${EDITOR', "reboot", "ephemeroot check", *_BOOT_LOADER)):
            said.extend((f"$ {command}", machine.run(command)))
    do(5)
    machine.run("echo precious > /etc/lost; echo precious > /var/lib/forgotten/lost")
    do(6)
    return "\n".join(said)


@pytest.fixture(scope="module")
def converted(
    bench: Bench,
    cache: Cache,
    image: System,
    package: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Disk, Path, str, System]:
    """The disk after chapter 6, its initramfs, the output so far, and the original system."""
    from vm import disk as disks

    system = project.installed(cache, image, package, {})
    folder = tmp_path_factory.mktemp("converted")
    disk = disks.prepared(cache, stock(), bench.tools, system).copy(folder / "disk.raw")
    line = " ".join(ROOT)
    with installed(cache, disk, "@rootfs", UUID, line) as machine:
        said = convert(machine, system.release)
    return disk, image_of(disk, folder / "initrd", system.release), said, system


def image_of(disk: Disk, target: Path, release: str) -> Path:
    """The initramfs that the boot loader would load."""
    with disk.mounted() as top:
        shutil.copy(top / f"@boot/initrd.img-{release}", target)
    return target


def test_the_output_of_the_commands_of_the_guide(converted: tuple[Disk, Path, str, System]) -> None:
    """Without a boot: the guide's commands run in a chroot of the installed system."""
    disk, _, said, _ = converted
    print(said)
    assert re.search(r"\$ ephemeroot check\n(?!error)", said)
    assert "0 errors" in said or "no problems" in said
    assert re.search(r"\d+ operations simulated, all copies removed", said)
    assert "1 image rebuilt and verified; the next boot follows generation 1" in said
    with disk.mounted() as top:
        names = sorted(p.name for p in top.iterdir())
        assert names == ["@boot", "@persistent", "@rootfs", "@rootfs-base", "@rootfs-old_bases"]
        assert not (top / "@rootfs-base/etc/lost").exists()


def test_leaving_rebuilds_the_images_without_ephemeroot(
    cache: Cache, converted: tuple[Disk, Path, str, System], scratch: Path
) -> None:
    """This runs before the first ephemeral boot: an administrator who changes the decision then has
    an image as before.

    Without a boot: `leave` runs in a chroot of the installed system.
    """
    source, _, _, system = converted
    disk = source.copy(scratch / "disk.raw")
    with installed(cache, disk, "@rootfs", UUID, " ".join(ROOT)) as machine:
        machine.run("mount /boot; mount /persistent")
        said = "".join(machine.run(asked(command)) for command in chapter(9))
        assert (
            f"the kernel {system.release} without ephemeroot: it does not contain ephemeroot"
            in said
        )
        listed = machine.run(f"lsinitrd /boot/initrd.img-{system.release}")
        assert "usr/lib/ephemeroot" not in listed
        assert "usr/lib/systemd/system/initrd-root-fs.target" in listed
        assert machine.run("ephemeroot leave --yes").startswith("already copied back and disarmed")


def test_from_a_stock_installation_and_back(
    bench: Bench, converted: tuple[Disk, Path, str, System], scratch: Path, name: str
) -> None:
    """Only a boot shows that the machine which the guide makes starts, and starts again after
    `leave`.
    """
    source, initrd, _, system = converted
    disk = source.copy(scratch / "disk.raw")
    boot = Boot(system, initrd, (disk,), root=ROOT)
    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    print(f"\nfirst ephemeral boot: login after {machine.boot_time:.1f} s")
    first_ephemeral_boot(machine)
    live_with_it(machine)
    for command in chapter(9):
        # Its images are built below, on this host: dracut takes minutes in the machine.
        print(machine.run(asked(command, "--no-images"), timeout=300).out)
    machine.run("echo after leaving > /srv/photos/late")
    machine.run("test ! -e /etc/ephemeroot/plan.json")
    assert machine.poweroff(180).complaints == ()
    with installed(bench.cache, disk, "@rootfs", UUID, " ".join(ROOT)) as built:
        built.run("mount /boot")
        built.run(f"dracut --force /boot/initrd.img-{system.release} {system.release}")
    plain = Boot(system, image_of(disk, scratch / "plain", system.release), (disk,), root=ROOT)
    machine = bench.up(plain, name)
    assert machine.settle() == "running", machine.failed_units()
    ordinary(machine)
    assert machine.poweroff().complaints == ()
    with disk.mounted() as top:
        assert len(list((top / "@rootfs-old_roots").iterdir())) == 1, "no boot has wiped since"
        assert (top / "@persistent/srv/photos/late").read_text() == "after leaving\n"


def first_ephemeral_boot(machine: Machine) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
    assert said["wipe"]["wiped /"]["retired"].endswith(".keep")
    journal = machine.journal()
    assert journal.count("wipe: wiped") == 1
    assert machine.run("test -e /etc/lost || test -e /var/lib/forgotten/lost", check=False).rc == 1
    assert machine.read("/srv/photos/one") == b"mine\n"
    assert machine.run("findmnt -no FSROOT /srv").out.strip() == "/@persistent/srv"
    assert machine.run("id -un 1000").out.strip() == "ada"
    assert machine.run("findmnt -no FSROOT /boot").out.strip() == "/@boot"


def live_with_it(machine: Machine) -> None:
    """Chapter 7: a file is lost and restored, another is declared."""
    old = json.loads(machine.run("ephemeroot roots list --json").out)
    (entry,) = old["histories"][0]["entries"]
    machine.run("mkdir /etc/some-service; echo v1 > /etc/some-service/conf")
    for command in chapter(7):
        mine = command.replace("/etc/some-file", "/etc/lost")
        mine = re.sub(r"--from \S+", f"--from {entry['name']}", mine)
        print(f"$ {mine}\n{machine.run(mine, timeout=180).out}")
    assert machine.read("/etc/lost") == b"precious\n"
    assert machine.run("findmnt -no FSROOT /etc/some-service").out.strip() == (
        "/@persistent/etc/some-service"
    )
    machine.run("echo v2 > /etc/some-service/conf; echo changed > /srv/photos/one")
    machine.run("echo ada:other | chpasswd; touch /etc/not-declared")


def ordinary(machine: Machine) -> None:
    """Nothing is ephemeral, and nothing is missing."""
    assert machine.run("test -e /run/ephemeroot/wiped", check=False).rc == 1
    assert "wipe: wiped" not in machine.journal()
    assert machine.run("findmnt -rno TARGET,FSROOT | grep -c '^/\\(srv\\|etc\\|var\\)'",
                       check=False).out.strip() == "0"  # fmt: skip
    assert machine.read("/srv/photos/one") == b"changed\n"
    assert machine.read("/srv/photos/late") == b"after leaving\n", "copied back by this boot"
    assert machine.read("/etc/lost") == b"precious\n"
    assert machine.read("/etc/some-service/conf") == b"v2\n"
    machine.run("test -e /etc/not-declared")
    assert machine.run("id -un 1000").out.strip() == "ada"
    assert machine.run("systemctl is-active ephemeroot-leave.service").out.strip() == "active"
    assert machine.run("test -e /.ephemeroot/leaving.json", check=False).rc == 1
