"""Volumes on LVM, LUKS, MD and several disks, made by the distribution's own dracut modules."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from vm import initramfs
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.console import Typed
from vm.inits import WITHOUT_SYSTEMD
from vm.layer import File
from vm.loop import attached
from vm.machine import Machine
from vm.storage import (
    ARRAY,
    KEY,
    LAPTOP_LUKS,
    PASSPHRASE,
    ROOT,
    ROOT_LUKS,
    ROOT_PASSPHRASE,
    VAULT,
    VAULT_LUKS,
    Storage,
)
from vm.wiped import require_wiped_once

# systemd's agent on the console and cryptsetup itself
QUESTION = "assphrase for"

# dracut finds out on the machine where it runs which module an array needs.
MIRROR = ("--add-drivers", "raid1")

# Seconds to the first answer: decryption without the processor's help, and a typed passphrase.
PATIENCE = 360.0

OTHERS = ("vault", "left", "pool_a", "pool_b", "books")


# The links that udev would have made for the machine's devices: the store's name leads to an
# encrypted device, because nothing can be unlocked here.
HOST_ONLY = f"""\
device=$1 number=$2
mount -t tmpfs tmpfs /dev
mknod -m 666 /dev/null c 1 3
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/disk/by-uuid /dev/block
mknod "$device" b $number
ln -s "$device" "/dev/block/${{number%% *}}:${{number##* }}"
ln -s "$device" /dev/disk/by-uuid/{VAULT}
dracut --hostonly --print-cmdline 2> /dev/null
echo and without us:
rm /usr/lib/dracut/dracut.conf.d/50-ephemeroot.conf
dracut --hostonly --print-cmdline 2> /dev/null
"""


def test_a_host_only_image_has_the_devices_below_the_stores(
    cache: Cache, storage: Storage, scratch: Path
) -> None:
    """With the real dracut, which does not know this machine's root.

    Without a boot: dracut runs in a chroot.
    """
    (vault,) = storage.copies(scratch, "vault")
    with attached(vault.image) as device:
        node = device.stat().st_rdev
        number = f"{os.major(node)} {os.minor(node)}"
        said = storage.server.system.run(cache, "sh", "-euc", HOST_ONLY, "dracut", device, number)
    ours, _, without = said.partition("and without us:")
    assert f"rd.luks.uuid=luks-{VAULT_LUKS}" in ours.split()
    assert "rd.luks" not in without


@pytest.fixture
def laptop(storage: Storage, cache: Cache, scratch: Path) -> Boot:
    """impermanence's README: btrfs with root, store and old roots on LVM; inside LUKS."""
    initrd = storage.laptop.initrd(cache, ("--add", "crypt lvm systemd-cryptsetup"))
    root = ("root=/dev/root_vg/root", "rootflags=subvol=root", "ro")
    words = (f"rd.luks.uuid=luks-{LAPTOP_LUKS}", "rd.lvm.lv=root_vg/root")
    disks = storage.copies(scratch, "laptop")
    return Boot(storage.laptop.system, initrd, disks, root=root, arguments=words, timeout=PATIENCE)


@pytest.mark.proof
def test_the_layout_of_the_readme_on_lvm_inside_luks(
    bench: Bench, laptop: Boot, name: str, scratch: Path
) -> None:
    """Only a boot shows LUKS and LVM opened by dracut, and a passphrase that is typed."""
    # Longer than the timeout of the volume, which is 5 seconds.
    typed = Typed(QUESTION, PASSPHRASE, after=15)
    machine = bench.up(replace(laptop, typed=(typed,)), name)
    require_wiped_once(machine)
    assert "assphrase for" in machine.console.read_text(errors="replace")
    assert machine.run("ls /etc/lost", check=False).rc != 0
    source = machine.run("readlink -f $(findmnt -vno SOURCE /persistent) /dev/root_vg/root").out
    assert len(set(source.split())) == 1, source
    # The initramfs has already followed the line in fstab; no program mounts it again.
    assert machine.run("findmnt -rno TARGET | grep -cx /persistent").out.strip() == "1"
    machine.run("echo lost > /etc/lost; echo day 1 >> /var/log/diary")
    identity = machine.read("/etc/machine-id")
    require_all_unmounted(machine)
    key = {f"etc/cryptsetup-keys.d/luks-{LAPTOP_LUKS}.key": File(KEY.encode(), 0o400)}
    with_key = initramfs.overlay(laptop.initrd, key, scratch / "initrd")
    machine = bench.up(replace(laptop, initrd=with_key), name)
    require_wiped_once(machine)
    assert machine.run("ls /etc/lost", check=False).rc != 0
    assert machine.read("/var/log/diary") == b"day 1\n"
    assert machine.read("/etc/machine-id") == identity
    machine.run("mount -o subvolid=5 /dev/root_vg/root /mnt")
    old = machine.run("cat /mnt/old_roots/*/etc/lost").out
    assert sorted(old.splitlines()) == ["lost", "of the first root"]
    snapshots(machine)
    machine.run("umount /mnt")
    require_all_unmounted(machine)


def require_all_unmounted(machine: Machine) -> None:
    """The root's own device cannot be detached from inside: that message is not about us."""
    complaints = machine.poweroff().complaints
    assert [line for line in complaints if " DM " not in line] == []


def snapshots(machine: Machine) -> None:
    """The records of a real udev for LVM's snapshots, mappings and mirrors, in the
    running system.
    """
    machine.write("/root/duplicates", DUPLICATES)
    machine.run("sh -eu /root/duplicates", timeout=120)


# The installed program's own code answers each question.
DUPLICATES = """\
ask() {
    udevadm settle
    python3 -c 'from ephemeroot.linux import duplicates; print(*duplicates.of("'"$1"'"))'
}
want() { found=$(ask "$1"); [ "$found" = "$2" ] || { echo "$1: $found, not $2" >&2; exit 1; }; }
cd /root
truncate -s 200M pv; pv=$(losetup -f --show pv)
vgcreate -q -y trial "$pv"
lvcreate -q -y -L 40M -n data trial
mkfs.ext4 -q -L snapped /dev/trial/data
want LABEL=snapped ""
lvcreate -q -y -s -L 20M -n snap trial/data
want LABEL=snapped "/dev/mapper/trial-data /dev/mapper/trial-snap"
lvremove -q -y trial/snap
want LABEL=snapped ""
# A mapping over a whole device
truncate -s 40M disk; disk=$(losetup -f --show disk)
mkfs.ext4 -q -L mapped "$disk"
echo "0 81920 linear $disk 0" | dmsetup create over
want LABEL=mapped ""
dmsetup remove over
# A mirror whose members look like the filesystem itself: the metadata is at their end
truncate -s 40M one two; one=$(losetup -f --show one); two=$(losetup -f --show two)
mdadm --quiet --create /dev/md/trial --run --assume-clean --metadata=1.0 \\
    --level=1 --raid-devices=2 "$one" "$two"
mkfs.ext4 -q -L mirrored /dev/md/trial
want LABEL=mirrored ""
mdadm --quiet --stop /dev/md/trial
vgchange -q -an trial
losetup -D
"""

WAIT = """\
import os, subprocess, sys, threading, time
from ephemeroot.linux import udev
path = "/dev/disk/by-label/late"
def appear():
    time.sleep(2)
    subprocess.run("losetup -f /root/late", shell=True, check=True)
threading.Thread(target=appear).start()
assert not os.path.exists(path)
assert udev.wait_for(path, 60)
assert os.path.exists(path)
print("appeared")
"""


def check_stores(machine: Machine) -> None:
    """Everything is mounted once, in the right order and by the right program."""
    require_wiped_once(machine)
    assert machine.run("ls /etc/lost", check=False).rc != 0
    # The root is in one LUKS, its store in another.
    assert luks_of(machine, ROOT) == ROOT_LUKS
    assert luks_of(machine, VAULT) == VAULT_LUKS
    root, vault = (real(machine, f"/dev/disk/by-uuid/{uuid}") for uuid in (ROOT, VAULT))
    wanted = {
        "/": (root, "/root", "btrfs"),
        "/persistent": (vault, "/persistent", "btrfs"),
        "/srv/data": ("/dev/md127", "/", "xfs"),
        "/srv/books": ("/dev/vdf", "/", "ext4"),
        "/var/lib/data": ("/dev/md127", "/var/lib/data", "xfs"),
        "/home": ("/dev/vdf", "/home", "ext4"),
    }
    for place, expected in wanted.items():
        device, *found = machine.run(f"findmnt -rvno SOURCE,FSROOT,FSTYPE {place}").out.split()
        assert (real(machine, device), *found) == expected, place
    for place in ("/srv/data/pool", "/var/lib/data/inner"):
        assert machine.run(f"findmnt -rno FSTYPE {place}").out == "btrfs\n", place
    # A store on a store: the lower one was mounted first.
    machine.run("echo kept | tee /var/lib/data/outside /var/lib/data/inner/inside")
    assert machine.read("/srv/data/var/lib/data/outside") == b"kept\n"
    assert machine.read("/srv/data/pool/var/lib/data/inner/inside") == b"kept\n"
    assert "degraded" not in machine.run("btrfs filesystem show /srv/data/pool").out
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    mounted = [o["line"] for o in said["wipe"]["operations"] if o["line"].startswith("mount ")]
    assert len(mounted) == 4, "what is not needed for boot is not the initramfs's"
    assert machine.run("findmnt -rno FSROOT /srv/later").out == "/later\n"
    # The fresh root lacked this directory: it was writable before any volume was mounted.
    units = "systemd-remount-fs.service local-fs-pre.target"
    begun = machine.run(f"systemctl show -P ActiveEnterTimestampMonotonic {units}").out.split()
    assert int(begun[0]) <= int(begun[1])


def real(machine: Machine, path: str) -> str:
    """The path without links, which is the kernel's name of the device."""
    return machine.run(f"readlink -f {path}").out.strip()


def luks_of(machine: Machine, filesystem: str) -> str:
    """The UUID of the LUKS that contains the filesystem with that UUID."""
    name = Path(real(machine, f"/dev/disk/by-uuid/{filesystem}")).name
    kind, _, rest = machine.run(f"cat /sys/block/{name}/dm/uuid").out.partition("-LUKS1-")
    assert kind == "CRYPT"
    plain = rest[:32]
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))


@pytest.mark.parametrize("init", ["systemd", pytest.param("no-systemd", marks=pytest.mark.proof)])
def test_stores_on_luks_md_and_two_disks(
    bench: Bench, storage: Storage, cache: Cache, scratch: Path, name: str, init: str
) -> None:
    """One disk of the mirror is missing. The root is in a LUKS, and a store in another one.

    Only a boot shows devices that appear one after the other, and the wait for each.
    """
    boot = server(storage, cache, scratch, init)
    machine = bench.up(boot, name)
    check_stores(machine)
    assert "[2/1]" in machine.run("cat /proc/mdstat").out
    # It was due for a check after 40 mounts without one: it has been checked once, before the
    # mount.
    counted = machine.run("dumpe2fs -h /dev/vdf 2> /dev/null | grep 'Mount count'").out
    assert counted.split()[-1] == "1"
    if init == "systemd":
        checks = machine.journal("-u 'systemd-fsck@dev-disk-by*'")
        assert "check forced" in checks
        machine.run("truncate -s 40M /root/late; mkfs.ext4 -q -L late /root/late")
        machine.write("/root/wait.py", WAIT)
        assert machine.run("python3 /root/wait.py").out == "appeared\n"
        machine.run("losetup --detach-all; rm /root/late")  # it is on the root, and in use
        # A host-only image built on this machine has the devices below the stores, not only the
        # root's.
        said = machine.run("dracut --hostonly --print-cmdline 2> /dev/null", timeout=300).out
        assert f"rd.luks.uuid=luks-{VAULT_LUKS}" in said
        assert f"rd.md.uuid={ARRAY}" in said
    console = machine.console.read_text(errors="replace")
    for typed in boot.typed:
        assert re.search(typed.question, console), typed
    require_all_unmounted(machine)


def server(
    storage: Storage, cache: Cache, scratch: Path, init: str, *, sealed: bool = True
) -> Boot:
    """The server's boot. With systemd the root opens by a passphrase and the store by a key file;
    without, each by its own passphrase. Or the root is on a plain disk.

    Typing takes longer than the timeout of the volumes, which is 5 seconds.
    """
    disks = storage.copies(scratch, "sealed" if sealed else "root", *OTHERS)
    root = (f"root=UUID={ROOT}", "rootflags=subvol=root", "ro")
    if init == "systemd":
        # The line in crypttab has x-initrd.attach, so dracut includes it.
        added = ("--add", "crypt mdraid systemd-cryptsetup", "--install", "/etc/keys/vault")
        initrd = storage.server.initrd(cache, (*added, *MIRROR))
        words: tuple[str, ...] = (f"rd.md.uuid={ARRAY}",)
        typed: tuple[Typed, ...] = ()
        if sealed:
            # If one LUKS is named like this, systemd opens no other, even if it is in crypttab.
            words += tuple(f"rd.luks.uuid=luks-{uuid}" for uuid in (ROOT_LUKS, VAULT_LUKS))
            typed = (Typed(f"{QUESTION} [^:]*{ROOT_LUKS}", ROOT_PASSPHRASE, after=15),)
    else:
        initrd = storage.server.initrd(cache, (*WITHOUT_SYSTEMD, "--add", "crypt mdraid", *MIRROR))
        # These are all devices; only we name the store's LUKS and its array, and wait for them.
        # Neither dracut nor, later, systemd follows the line in crypttab, which has a key.
        words = ("rd.auto=1", "rd.luks.crypttab=0", "luks.crypttab=no")
        typed = (
            Typed(f"{QUESTION} /dev/vda", ROOT_PASSPHRASE, after=15),
            Typed(f"{QUESTION} /dev/vdb", PASSPHRASE, after=15),
        )
    return Boot(
        storage.server.system,
        initrd,
        disks,
        root=root,
        arguments=words,
        timeout=PATIENCE,
        typed=typed,
    )


@pytest.mark.proof
def test_reports_a_copy_of_a_disk(
    bench: Bench, storage: Storage, cache: Cache, scratch: Path, name: str
) -> None:
    """The copy was made with dd and left in the machine: it is unknown which of the two is meant.

    Only a boot shows to which of two equal devices udev's links lead.
    """
    boot = server(storage, cache, scratch, "systemd", sealed=False)
    disks = (*boot.disks, *storage.copies(scratch, "right", "books"))
    emergency = bench.emergency(replace(boot, disks=disks), name)
    message = "the device LABEL=my books of /srv/books matches several devices: /dev/vdf, /dev/vdh"
    assert message in emergency.journal, str(emergency)
    assert emergency.stage == "initramfs"
    assert emergency.report["wipe"]["policy"] == "emergency"
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/lost").read_text() == "of the first root\n"
        assert not (top / "old_roots").exists()
