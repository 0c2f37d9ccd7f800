"""Machines whose filesystems are not on plain disks, and their disks.

Two machines: the layout of impermanence's README, btrfs on LVM, inside LUKS here; and stores on
everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vm.bench import Bench
from vm.disk import Btrfs, Disk, Layout, Subvolume, prepared
from vm.ephemeral import Ephemeral, make
from vm.filesystems import Ext4Files, XfsFiles, btrfs_on_two
from vm.image import VOLUMES, debian_system
from vm.layer import Content, File
from vm.luks import Luks
from vm.lvm import Lvm
from vm.mirror import Member
from vm.system import System

PASSPHRASE = "correct horse"
KEY = "a key of many bytes, made for nothing but this test\n"
ROOT_PASSPHRASE = "another staple"
LAPTOP_LUKS = "6b1f1c39-5d5e-4a53-8a0c-3f7d5e2a9b11"
VAULT_LUKS = "0d3c8f2e-7c44-4f0e-b1a5-52d9c86e4f77"
ROOT_LUKS = "c81f6a30-4be2-47d5-9a36-e0d17b5c2f94"
ROOT = "e6a0b7d4-53c1-4f8e-b2d9-7c4f10a83e65"
VAULT = "2f4e8d1c-9b7a-4c3d-8e2f-1a0b9c8d7e6f"
DATA = "51c3a9e2-16d4-4b8f-9d0e-7e6a5b4c3d21"
ARRAY = "3aaa0122:29827cfa:5331ad66:ca767371"

_ROOT = """\
[root]
wiper = "{wiper}"
# QEMU has the kernel and the initramfs
external-boot = true
"""

LAPTOP = (
    _ROOT.format(wiper="btrfs")
    + """
[root.btrfs]
base = "root-base"

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""
)
# Typing takes longer than the timeout of the volume.
LAPTOP_FSTAB = """\
/dev/root_vg/root / btrfs subvol=root 0 0
/dev/root_vg/root /persistent btrfs subvol=persistent,x-initrd.mount,x-systemd.device-timeout=5s 0 0
"""

# The timeout of the array is shorter than the time after which dracut starts it without a disk.
SERVER = (
    _ROOT.format(wiper="btrfs")
    + f"""
[root.btrfs]
base = "root-base"

[[volumes]]
mount-point = "/persistent"
device = "UUID={VAULT}"
type = "btrfs"
options = ["subvol=persistent", "noatime"]
timeout = "5s"

[[volumes]]
mount-point = "/srv/data"
device = "UUID={DATA}"
type = "xfs"
timeout = "5s"

[[volumes]]
mount-point = "/srv/data/pool"
device = "LABEL=pool"
type = "btrfs"
timeout = "20s"

[[volumes]]
mount-point = "/srv/books"
device = "LABEL=my books"
type = "ext4"
timeout = "20s"

[persistence."/persistent"]
directories = ["/var/log"]
files = ["/etc/machine-id"]

[persistence."/srv/data"]
directories = ["/var/lib/data"]

[persistence."/srv/data/pool"]
directories = ["/var/lib/data/inner"]

[persistence."/srv/books"]
directories = ["/home"]
"""
)
SERVER_FSTAB = f"""\
UUID={ROOT}  /           btrfs  subvol=root   0 0
UUID={ROOT}  /srv/later  btrfs  subvol=later  0 0
"""
SERVER_STORES = ("/persistent", "/srv/data", "/srv/data/pool", "/srv/books")


@dataclass(frozen=True)
class Storage:
    """The machines, and all disks by name; `root` is the server's, `sealed` the same in a separate
    LUKS.
    """

    laptop: Ephemeral
    server: Ephemeral
    disks: Mapping[str, Disk]

    def copies(self, scratch: Path, *names: str) -> tuple[Disk, ...]:
        """Copies to boot from."""
        made = []
        for name in names:
            number = len(list(scratch.glob("*.raw")))
            made.append(self.disks[name].copy(scratch / f"{number}-{name}.raw"))
        return tuple(made)


def storage(bench: Bench, package: Path) -> Storage:
    """All of it, from the cache or newly made."""
    cache, tools = bench.cache, bench.tools
    plain = debian_system(cache, VOLUMES)
    laptop, laptop_disk = readme(bench, package, plain)
    crypttab = f"vault UUID={VAULT_LUKS} /etc/keys/vault luks,x-initrd.attach\n"
    files: dict[str, Content] = {
        "etc/fstab": SERVER_FSTAB,
        "etc/crypttab": crypttab,
        "etc/keys/vault": File(KEY.encode(), 0o400),
    }
    server = make(cache, plain, package, SERVER, others=files, stores=SERVER_STORES)

    def disk(layout: Layout, system: System) -> Disk:
        return prepared(cache, layout, tools, system)

    root = _btrfs(SERVER_FSTAB, None, ROOT)
    persistent = Subvolume("persistent", files=server.stores["/persistent"])
    vault = Btrfs((persistent,), "256M", "vault", VAULT)
    mirrored = XfsFiles(DATA, server.stores["/srv/data"])
    checked = ("-c", "30", "-C", "40")
    pool = btrfs_on_two(cache, tools, "pool", "256M", server.stores["/srv/data/pool"])
    disks = {
        "laptop": laptop_disk,
        "vault": disk(Luks(vault, VAULT_LUKS, PASSPHRASE, KEY), plain),
        **{
            name: disk(Member(mirrored, number, ARRAY, "any:data"), plain)
            for number, name in enumerate(("left", "right"))
        },
        **dict(zip(("pool_a", "pool_b"), pool, strict=True)),
        "books": disk(Ext4Files("my books", server.stores["/srv/books"], tuned=checked), plain),
        "root": disk(root, server.system),
        "sealed": disk(Luks(root, ROOT_LUKS, ROOT_PASSPHRASE, "of no use\n"), server.system),
    }
    return Storage(laptop, server, disks)


def readme(bench: Bench, package: Path, plain: System) -> tuple[Ephemeral, Disk]:
    """The machine with the layout of impermanence's README, made of the system `plain`, and its
    disk."""
    cache = bench.cache
    laptop = make(cache, plain, package, LAPTOP, others={"etc/fstab": LAPTOP_FSTAB})
    volumes = (("root", _btrfs(LAPTOP_FSTAB, laptop.store)),)
    luks = Luks(Lvm("root_vg", volumes), LAPTOP_LUKS, PASSPHRASE, KEY)
    return laptop, prepared(cache, luks, bench.tools, laptop.system)


def _btrfs(fstab: str, store: Mapping[str, Content] | None, uuid: str | None = None) -> Btrfs:
    """Base, root, and the store or a volume that is not needed for booting."""
    other = Subvolume("later") if store is None else Subvolume("persistent", files=store)
    return Btrfs(
        subvolumes=(
            Subvolume("root-base", tree=True, files={"etc/fstab": fstab}),
            Subvolume("root", snapshot_of="root-base", files={"etc/lost": "of the first root\n"}),
            other,
        ),
        uuid=uuid,
    )
