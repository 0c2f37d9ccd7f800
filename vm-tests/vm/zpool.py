"""A Debian on a ZFS root, as two configurations of it and the disk that both can boot.

::

    tank/ROOT                   encrypted, with a passphrase
    tank/ROOT/base@blank        the system
    tank/ROOT/rotated           a clone of it, for mode = "rotate"
    tank/rolled@blank           not encrypted, with the other configuration, for mode = "rollback"
    tank/persist, tank/keep     the stores: a legacy mount point, and one of ZFS's own, which is
                                encrypted although its root is not
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm import initramfs, layer
from vm.bench import Bench
from vm.builder import Recipe, built
from vm.cache import Cache
from vm.disk import Btrfs, Disk, Subvolume, prepared
from vm.ephemeral import Ephemeral, make
from vm.layer import File
from vm.system import System

ROTATED, ROLLED = "tank/ROOT/rotated", "tank/rolled"
PASSPHRASE = "correct horse"

_ROTATE = """\
[root]
wiper = "zfs"
# QEMU has the kernel and the initramfs
external-boot = true

[root.zfs]
mode = "rotate"
base = "tank/ROOT/base"

[[volumes]]
mount-point = "/persistent"
device = "tank/persist"
type = "zfs"

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""

_ROLL_BACK = """\
[root]
wiper = "zfs"
external-boot = true

[root.zfs]
dataset = "tank/rolled"

[[volumes]]
mount-point = "/persistent"
device = "tank/keep"
type = "zfs"
options = ["zfsutil"]

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""

# The machine and the one that makes its pool must be the same host for ZFS (spl_hostid).
_HOST_ID = File(b"\x78\x56\x34\x12")

# CCM with a short key: without the processor's help it is the least slow of ZFS's ciphers.
_ENCRYPTED = (
    "-o encryption=aes-128-ccm -o keyformat=passphrase -o keylocation=prompt -o pbkdf2iters=100000"
)
_INSTALL = f"""\
modprobe zfs
zpool create -f -o ashift=12 -O mountpoint=none -O compression=lz4 -O atime=off -O xattr=sa \\
  -O acltype=posixacl -R /mnt tank $tank
mkdir /run/system /run/root /run/store
mount -t btrfs -o subvol=root-base,ro $system /run/system
zfs create -o mountpoint=legacy -o canmount=noauto tank/rolled
mount -t zfs tank/rolled /run/root
tar -C /run/system --exclude=./usr/src --exclude=./etc/fstab --xattrs --acls -cf - . |
  tar -C /run/root --xattrs --acls -xpf -
zfs snapshot tank/rolled@blank
echo '{PASSPHRASE}' | zfs create {_ENCRYPTED} tank/ROOT
zfs send tank/rolled@blank | zfs receive -u -o mountpoint=legacy tank/ROOT/base
zfs clone -o mountpoint=legacy -o canmount=noauto tank/ROOT/base@blank tank/ROOT/rotated
zfs destroy tank/rolled@blank
tar -C /run/root -xf /run/builder/rolled.tar
zfs snapshot tank/rolled@blank
written_since() {{
  echo of the first root | tee /run/root/home/talyz/seeded > /run/root/srv/lost
  umount /run/root
}}
written_since
mount -t zfs tank/ROOT/rotated /run/root
written_since
zfs set -u mountpoint=/ tank/rolled
options=
for store in persist keep; do
  echo '{PASSPHRASE}' | zfs create -o mountpoint=legacy -o canmount=noauto $options tank/$store
  options="{_ENCRYPTED}"
  mount -t zfs tank/$store /run/store
  tar -C /run/store -xf /run/builder/$store.tar
  umount /run/store
done
zfs set -u mountpoint=/persistent tank/keep
zpool set bootfs=tank/ROOT/rotated tank
zpool export tank
"""


@dataclass(frozen=True)
class Pool:
    """The two systems, the initramfs of each, and the disk."""

    rotate: Ephemeral
    roll_back: Ephemeral
    initrds: tuple[Path, Path]
    disk: Disk


def make_pool(bench: Bench, system: System, wheel: Path) -> Pool:
    """All of it, from the cache if possible; otherwise a machine runs for a while."""
    cache = bench.cache
    system = system.on_top(layer.make(cache, files={"etc/hostid": _HOST_ID}))
    rotate = make(cache, system, wheel, _ROTATE)
    roll_back = make(cache, system, wheel, _ROLL_BACK)
    initrds = (zfs_initrd(cache, rotate.system), zfs_initrd(cache, roll_back.system))
    recipe = Recipe(
        disks={"tank": "3G"},
        script=_INSTALL,
        files={
            "persist.tar": _packed(cache, rotate.system, "/persistent"),
            "keep.tar": _packed(cache, roll_back.system, "/persistent"),
            "rolled.tar": _packed(cache, roll_back.system, "/", "./etc/ephemeroot"),
        },
    )
    tree = Btrfs(subvolumes=(Subvolume("root-base", tree=True),))
    source = prepared(cache, tree, bench.tools, rotate.system)
    made = built(bench, system, zfs_initrd(cache, system), recipe, {"system": source})
    return Pool(rotate, roll_back, initrds, made["tank"])


def zfs_initrd(cache: Cache, system: System) -> Path:
    """An initramfs that supports both: a root on btrfs, and one on ZFS."""
    words = ("--filesystems", "btrfs zfs", "--add", "zfs", "--add-drivers", "zfs")
    return initramfs.make(cache, system, words)


def _packed(cache: Cache, system: System, folder: str, *names: str) -> bytes:
    """The files that `apply` wrote into the store, or an administrator into the root, as an
    archive.
    """
    with cache.scratch("packed") as results:
        # Without times: the same content must give the same recipe.
        plain = ["tar", "--sort=name", "--mtime=@0", "--numeric-owner", "-C", folder]
        words = [*plain, "-cf", "/run/results/packed.tar", *(names or ["."])]
        system.run(cache, *words, results=results)
        return (results / "packed.tar").read_bytes()
