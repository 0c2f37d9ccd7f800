"""Images as an administrator makes them: by `ephemeroot apply`, without a configuration, and from a
broken installation. The first needs no machine, only the Debian system and its own dracut.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vm import initramfs, project
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import Ephemeral
from vm.inits import WITHOUT_SYSTEMD
from vm.system import System

DiskFactory = Callable[..., Disk]

CONFIGURATION = """\
[root]
wiper = "btrfs"
external-boot = true
[root.btrfs]
base = "root-base"
[[volumes]]
mount-point = "/persistent"
device = "@DEVICE@"
type = "btrfs"
options = ["subvol=persistent"]
[persistence."/persistent"]
directories = ["/var/log"]
files = ["/etc/machine-id"]
"""

# A store on a loop device: apply requires it to be mounted before it writes a marker into it.
APPLY = """\
set -e
truncate --size 256M /run/store
mkfs.btrfs --quiet /run/store
device=$(losetup --find --show /run/store)
trap 'umount --quiet /persistent /mnt; losetup --detach "$device"' EXIT
# That of the machine to be, not of the host that this chroot is on.
echo "root=$device rootflags=subvol=root ro" > /run/cmdline
mount --bind /run/cmdline /proc/cmdline
mount "$device" /mnt
btrfs --quiet subvolume create /mnt/persistent
btrfs --quiet subvolume create /mnt/root-base
mkdir /persistent
mount -o subvol=persistent "$device" /persistent
sed -i "s,@DEVICE@,$device," /etc/ephemeroot/ephemeroot.toml
echo "$device / btrfs subvol=root 0 0" > /etc/fstab
kernel=$(ls /usr/lib/modules)
dracut --force --no-compress --hostonly --filesystems btrfs "/boot/initrd.img-$kernel" "$kernel" \
    > /dev/null 2>&1
echo 'compress="cat"' > /etc/dracut.conf.d/quick.conf
echo "== dry run"; ephemeroot apply --dry-run
[ ! -e /persistent/.ephemeroot-store ] && [ ! -e /etc/ephemeroot/plan.json ]
echo "== first"; ephemeroot apply --yes
echo "== second"; ephemeroot apply --yes
sed -i 's,"/var/log",& \\, "/srv",' /etc/ephemeroot/ephemeroot.toml
# Another kernel with an image, and one for rescue, as Debian's and Fedora's packages leave them.
cp --archive --link "/usr/lib/modules/$kernel" /usr/lib/modules/6.99.0-other
cp "/boot/initrd.img-$kernel" /boot/initrd.img-6.99.0-other
echo rescue > /boot/initramfs-0-rescue-5c0f3f2a9d0e4c8b8f6a1e2d3c4b5a69.img
echo "== third"; ephemeroot apply --yes
cat /boot/initramfs-0-rescue-*.img
cat /persistent/.ephemeroot/generation
cmp /persistent/.ephemeroot/plan.json /etc/ephemeroot/plan.json
cat /persistent/etc/ephemeroot/ephemeroot.toml
"""


def test_apply_rebuilds_the_images_and_reads_them_back(
    cache: Cache, image: System, wheel: Path
) -> None:
    """Without a boot: the dracut of the Debian system runs in a chroot."""
    files = {"etc/ephemeroot/ephemeroot.toml": CONFIGURATION}
    said = project.installed(cache, image, wheel, files).run(cache, "sh", "-c", APPLY)
    _, dry, first, second, third = re.split(r"^== .*\n", said, flags=re.MULTILINE)
    assert f"rebuild /boot/initrd.img-{image.release}" in dry
    assert "make /persistent a store (write its marker)" in dry
    assert "+ before the root is mounted: rotate /" in first
    assert "done: 1 image rebuilt and verified; the next boot follows generation 1" in first
    assert "no changes since generation 1" in second
    assert "the next boot follows generation 1" in second
    assert "+ under the new root: bind directory /srv" in third
    for kernel in (image.release, "6.99.0-other"):
        line = f"rebuild /boot/initrd.img-{kernel} for the kernel {kernel}, and read it back: plan"
        assert line in third
    assert "done: 2 images rebuilt and verified; the next boot follows generation 2" in third
    assert "\nrescue\n" in third, "built once and never pruned"
    assert "\n2\n" in third
    assert '"/var/log" , "/srv"' in third, "the store has the configuration as it is now"


@pytest.mark.proof
def test_an_image_without_a_configuration_is_inert(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows that an unconfigured image starts the machine unchanged."""
    system = project.installed(cache, image, package, {})
    boot = Boot(system, initramfs.make(cache, system), (disk(system=system),))
    with boot.disks[0].mounted() as top:
        (top / "root/etc/stray").write_text("stays\n")
    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.read("/etc/stray") == b"stays\n"
    assert "ephemeroot" not in machine.journal("-u init.scope -k")
    assert machine.run("ls -d /run/ephemeroot", check=False).rc != 0
    assert machine.poweroff().complaints == ()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="systemd"),
        pytest.param(WITHOUT_SYSTEMD, id="shell", marks=pytest.mark.proof),
    ],
)
def test_incomplete_files_make_an_inert_image_that_says_why(
    bench: Bench,
    cache: Cache,
    ephemeral: Ephemeral,
    disk: DiskFactory,
    name: str,
    options: tuple[str, ...],
) -> None:
    """Only a boot shows that an inert image starts the machine, and prints its reason on the
    console.
    """
    library = "rm /usr/lib/x86_64-linux-gnu/libbtrfsutil.so.1*"
    broken = ephemeral.system.changed_by(cache, "sh", "-c", library)
    initrd = initramfs.make(cache, broken, options)
    assert "THIS IMAGE IS INERT" in (initrd.parent / "dracut.log").read_text()
    boot = Boot(broken, initrd, (disk(ephemeral.layout(), ephemeral.system),))
    with boot.disks[0].mounted() as top:
        (top / "root/etc/stray").write_text("stays\n")
    machine = bench.up(boot, name)
    machine.settle()
    assert machine.read("/etc/stray") == b"stays\n"
    assert machine.run("findmnt /var/log", check=False).rc != 0
    console = machine.console.read_text(errors="replace")
    assert "THIS INITRAMFS IS INERT" in console
    assert "libbtrfsutil.so.1" in console
    assert "ephemeroot-wipe.service" not in machine.journal()
    assert machine.run("ls -d /run/ephemeroot", check=False).rc != 0
    machine.poweroff()
    with boot.disks[0].mounted() as top:
        assert not (top / "old_roots").exists()
