"""Images of a real mkinitcpio, of both kinds: fresh, persisted, resumed, failing closed, and with
roots that the wiper mounts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeroot.image import archive
from vm import mkinitcpio, project
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.console import Typed
from vm.debian import Selection
from vm.disk import Disk, Swap
from vm.ephemeral import CONFIGURATION, Ephemeral, make
from vm.image import ENCRYPTED_FOR_MKINITCPIO, FOR_MKINITCPIO, debian_system
from vm.lock import one_turn
from vm.mounted_roots import (
    OVERLAY,
    OVERLAY_ROOT,
    PERSISTENT,
    TMPFS,
    TMPFS_ROOT,
    Ext4,
    install,
    tmpfs_layout,
)
from vm.policies import require_obeyed
from vm.storage import LAPTOP_LUKS, PASSPHRASE, readme
from vm.system import System
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]

# Seconds to the first answer: decryption without the processor's help, and a typed passphrase.
PATIENCE = 360.0

STRAY = "of the root that goes\n"


@pytest.fixture(scope="session")
def system(cache: Cache) -> System:
    """The system with that mkinitcpio."""
    return with_mkinitcpio(cache, FOR_MKINITCPIO)


def with_mkinitcpio(cache: Cache, selection: Selection) -> System:
    try:
        mkinitcpio.prefix()
        return mkinitcpio.installed(cache, debian_system(cache, selection))
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def ephemeral(cache: Cache, system: System, package: Path) -> Ephemeral:
    """That system with the project, configured and applied."""
    return make(cache, system, package)


@pytest.fixture(params=["udev", "systemd"])
def boot(
    request: pytest.FixtureRequest, ephemeral: Ephemeral, cache: Cache, disk: DiskFactory
) -> Boot:
    """A disk whose root has a stray file, under an initramfs of that kind."""
    initrd = mkinitcpio.make(cache, ephemeral.system, mkinitcpio.HOOKS[request.param])
    disks = (disk(ephemeral.layout(), ephemeral.system), disk(Swap()))
    with disks[0].mounted() as top:
        (top / "root/etc/stray").write_text(STRAY)
    words = ("resume=/dev/vdb",)
    return Boot(ephemeral.system, initrd, disks, arguments=words, sessions=True)


def test_wiped_persisted_and_resumed(bench: Bench, boot: Boot, name: str) -> None:
    """Only a boot shows mkinitcpio's two inits: order of hooks and units, hibernation."""
    with one_turn(bench.cache):
        first = bench.up(boot, name)
        require_wiped_once(first)
        assert first.run("ls /etc/stray", check=False).rc != 0
        first.run("echo lost > /etc/lost; echo day 1 >> /var/log/diary; swapon /dev/vdb")
        assert first.hibernate().how == "poweroff"
        second = bench.up(boot, name)
        assert second.hello["boot_id"] == first.hello["boot_id"]
        assert second.read("/etc/lost") == b"lost\n"
        assert second.poweroff().complaints == ()
        third = bench.up(boot, name)
        require_wiped_once(third)
        assert third.run("ls /etc/lost", check=False).rc != 0
        assert third.read("/var/log/diary") == b"day 1\n"
        third.cut()
        with boot.disks[0].mounted() as top:
            assert len(list((top / "old_roots").iterdir())) == 2


@pytest.mark.parametrize("python", ["", "usr/bin/python3.13"], ids=["interpreter", "none"])
@pytest.mark.parametrize("hooks", ["udev", "systemd"])
def test_follows_the_policies(
    bench: Bench,
    cache: Cache,
    ephemeral: Ephemeral,
    disk: DiskFactory,
    name: str,
    scratch: Path,
    hooks: str,
    python: str,
) -> None:
    """Only a boot shows what mkinitcpio's inits do after our hook or unit has failed."""
    initrd = mkinitcpio.make(cache, ephemeral.system, mkinitcpio.HOOKS[hooks])

    def boot() -> Boot:
        return Boot(ephemeral.system, initrd, (disk(ephemeral.layout(), ephemeral.system),))

    require_obeyed(bench, boot, name, scratch, python=python)


@pytest.mark.parametrize("hooks", ["udev", "systemd"])
@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_boots_a_root_that_the_wiper_mounts(
    bench: Bench,
    cache: Cache,
    system: System,
    package: Path,
    disk: DiskFactory,
    name: str,
    hooks: str,
    kind: str,
) -> None:
    """Only a boot shows roots that mkinitcpio does not mount itself."""
    configuration, root = (TMPFS, TMPFS_ROOT) if kind == "tmpfs" else (OVERLAY, OVERLAY_ROOT)
    adopted = PERSISTENT if kind == "tmpfs" else ()
    ready = make(cache, system, package, configuration, adopted)
    initrd = mkinitcpio.make(cache, ready.system, mkinitcpio.HOOKS[hooks])
    if kind == "tmpfs":
        disks: tuple[Disk, ...] = (disk(tmpfs_layout(ready), ready.system),)
        install(disks[0])
    else:
        disks = (disk(Ext4(), ready.system), disk(ready.store_disk(), ready.system))
    boot = Boot(ready.system, initrd, disks, root=root)
    with one_turn(cache):
        for number in (1, 2):
            machine = bench.up(boot, name)
            assert machine.settle() == "running", machine.failed_units()
            assert machine.run("findmnt -no FSTYPE /").out.strip() == kind
            assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"
            assert machine.run("ls -d /lost", check=False).rc != 0
            machine.run(f"echo lost > /lost; echo day {number} >> /var/log/diary")
            expected = "".join(f"day {day}\n" for day in range(1, number + 1)).encode()
            assert machine.read("/var/log/diary") == expected
            said = json.loads(machine.read("/run/ephemeroot/boot.json"))
            assert [said[stage]["problems"] for stage in ("wipe", "persist")] == [[], []]
            assert machine.journal().count("wipe: wiped") == 1
            assert machine.poweroff().complaints == ()


@pytest.mark.parametrize(
    ("hooks", "word"),
    [
        ("encrypt", f"cryptdevice=UUID={LAPTOP_LUKS}:laptop"),
        ("sd-encrypt", f"rd.luks.name={LAPTOP_LUKS}=laptop"),
    ],
    ids=["encrypt", "sd-encrypt"],
)
def test_the_layout_of_the_readme_inside_luks(
    bench: Bench, cache: Cache, package: Path, name: str, scratch: Path, hooks: str, word: str
) -> None:
    """btrfs on LVM (`lvm2`) inside a LUKS that is opened by a passphrase.

    Only a boot shows device mapper, and a passphrase that is typed.
    """
    system = with_mkinitcpio(cache, ENCRYPTED_FOR_MKINITCPIO)
    laptop, disk = readme(bench, package, system)
    initrd = mkinitcpio.make(cache, laptop.system, mkinitcpio.HOOKS[hooks])
    boot = Boot(
        laptop.system,
        initrd,
        (disk.copy(scratch / "disk.raw"),),
        root=("root=/dev/root_vg/root", "rootflags=subvol=root", "ro"),
        arguments=(word,),
        timeout=PATIENCE,
        # Later than the timeout of the volume, which is 5 seconds.
        typed=(Typed("assphrase for", PASSPHRASE, after=10),),
    )
    machine = bench.up(boot, name)
    require_wiped_once(machine)
    assert machine.run("lsblk -rno TYPE /dev/vda").out.split() == ["disk", "crypt", "lvm"]
    assert machine.run("ls /etc/lost", check=False).rc != 0
    machine.run("mount -o subvolid=5 /dev/root_vg/root /mnt")
    assert machine.run("cat /mnt/old_roots/*/etc/lost").out == "of the first root\n"
    machine.run("umount /mnt")
    # The device of the root itself cannot be detached from inside: that message is not about us.
    complaints = machine.poweroff().complaints
    assert [line for line in complaints if " DM " not in line] == []


@pytest.mark.parametrize("hooks", ["udev", "systemd"])
def test_incomplete_files_make_an_inert_image(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str, hooks: str
) -> None:
    """Only a boot shows that an inert image starts the machine, and prints its reason on the
    console.
    """
    library = "rm /usr/lib/x86_64-linux-gnu/libbtrfsutil.so.1*"
    broken = ephemeral.system.changed_by(cache, "sh", "-c", library)
    initrd = mkinitcpio.make(cache, broken, mkinitcpio.HOOKS[hooks])
    assert "THIS IMAGE IS INERT" in (initrd.parent / "log").read_text()
    target = disk(ephemeral.layout(), ephemeral.system)
    assert "THIS INITRAMFS IS INERT" in assert_nothing_done(bench, broken, initrd, target, name)


def test_is_inert_with_hooks_in_a_wrong_order(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows that an image with a wrong order of hooks starts the machine unchanged."""
    hooks = "base udev modconf ephemeroot block resume filesystems vm-harness"
    initrd = mkinitcpio.make(cache, ephemeral.system, hooks)
    log = (initrd.parent / "log").read_text()
    assert "THIS IMAGE IS INERT" in log
    right = "HOOKS=(base udev modconf block resume ephemeroot filesystems vm-harness)"
    assert right in log
    target = disk(ephemeral.layout(), ephemeral.system)
    console = assert_nothing_done(bench, ephemeral.system, initrd, target, name)
    assert "THIS INITRAMFS IS INERT" in console
    assert right in console


def test_a_fallback_image_boots_the_root_unchanged(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows that a fallback image starts the machine unchanged."""
    hooks = "base udev autodetect modconf block resume ephemeroot filesystems vm-harness"
    initrd = mkinitcpio.make(cache, ephemeral.system, hooks, "-S autodetect")
    assert "a fallback image never wipes" in (initrd.parent / "log").read_text()
    names = archive.read(initrd, lambda _: False).names
    assert "init" in names
    assert not [name for name in names if name.startswith("usr/lib/ephemeroot")]
    assert "hooks/ephemeroot" not in names
    target = disk(ephemeral.layout(), ephemeral.system)
    console = assert_nothing_done(bench, ephemeral.system, initrd, target, name)
    assert "ephemeroot: " not in console


def assert_nothing_done(bench: Bench, system: System, initrd: Path, target: Disk, name: str) -> str:
    """An image that does nothing boots the root unchanged; return the output on the console."""
    with target.mounted() as top:
        (top / "root/etc/stray").write_text(STRAY)
    machine = bench.up(Boot(system, initrd, (target,)), name)
    machine.settle()
    assert machine.read("/etc/stray") == STRAY.encode()
    assert machine.run("findmnt /var/log", check=False).rc != 0
    assert machine.run("ls -d /run/ephemeroot", check=False).rc != 0
    console = machine.console.read_text(errors="replace")
    machine.poweroff()
    with target.mounted() as top:
        assert not (top / "old_roots").exists()
    return console


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
mkdir -p /persistent
mount -o subvol=persistent "$device" /persistent
sed -i "s,UUID=[-0-9a-f]*,$device," /etc/ephemeroot/ephemeroot.toml
echo "$device / btrfs subvol=root 0 0" > /etc/fstab
useradd --create-home --uid 1000 talyz
: > /etc/udev/hwdb.bin # which Debian keeps elsewhere
cat > /etc/mkinitcpio.conf << 'END'
MODULES=(virtio_blk btrfs)
COMPRESSION=cat
HOOKS=(base udev autodetect modconf block ephemeroot filesystems)
END
mkdir /etc/mkinitcpio.d
cat > /etc/mkinitcpio.d/linux.preset << END
ALL_kver=$(ls /usr/lib/modules)
ALL_config=/etc/mkinitcpio.conf
PRESETS=(default fallback)
default_image=/boot/initramfs-linux.img
fallback_image=/boot/initramfs-linux-fallback.img
fallback_options="-S autodetect"
END
echo "== first"; ephemeroot apply --yes
echo "== wrong"
sed -i 's/block ephemeroot/ephemeroot block/' /etc/mkinitcpio.conf
cp /boot/initramfs-linux.img /run/before
status=0; ephemeroot apply --yes 2>&1 || status=$?
echo "status $status"
cmp /run/before /boot/initramfs-linux.img
ls -A /boot
"""


def test_apply_rebuilds_the_images_of_all_presets(
    cache: Cache, system: System, package: Path
) -> None:
    """This needs only mkinitcpio. An inert image replaces no other.

    Without a boot: mkinitcpio runs in a chroot.
    """
    files = {"etc/ephemeroot/ephemeroot.toml": CONFIGURATION}
    installed = project.installed(cache, system, package, files)
    said = installed.run(cache, "sh", "-c", APPLY)
    first, wrong = said.partition("== first\n")[2].split("== wrong\n")
    assert "rebuild /boot/initramfs-linux.img (default) with mkinitcpio" in first
    assert "entry, interpreter, hooks, kernel modules" in first
    assert "a fallback image: it does not contain ephemeroot, so it never wipes" in first
    assert "done: 2 images rebuilt and verified; the next boot follows generation 1" in first
    assert "write HOOKS=(base udev autodetect modconf block ephemeroot filesystems)" in wrong
    assert "status 10" in wrong
    assert wrong.split()[-2:] == ["initramfs-linux-fallback.img", "initramfs-linux.img"]
