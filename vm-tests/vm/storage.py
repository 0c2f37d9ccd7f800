"""Machines whose filesystems are not on plain disks, and the disks, all made in one boot.

Three machines: a stock installation on ext4 on LVM, for the overlay; the layout of
impermanence's README, btrfs on LVM, inside LUKS here; and stores on everything else.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vm import builder, initramfs, layer
from vm.bench import Bench
from vm.disk import Btrfs, Disk, Subvolume, prepared
from vm.ephemeral import Ephemeral, make
from vm.image import VOLUMES, debian_system
from vm.layer import Content, File
from vm.mounted_roots import Ext4

PASSPHRASE = "correct horse"
KEY = b"a key of many bytes, made for nothing but this test\n"
LAPTOP_LUKS = "6b1f1c39-5d5e-4a53-8a0c-3f7d5e2a9b11"
VAULT_LUKS = "0d3c8f2e-7c44-4f0e-b1a5-52d9c86e4f77"
VAULT = "2f4e8d1c-9b7a-4c3d-8e2f-1a0b9c8d7e6f"
DATA = "51c3a9e2-16d4-4b8f-9d0e-7e6a5b4c3d21"
ARRAY = "3aaa0122:29827cfa:5331ad66:ca767371"

LVM_START = 1 << 20
"""Bytes from the start of a physical volume to its first extent."""

_ROOT = """\
[root]
wiper = "{wiper}"
# QEMU has the kernel and the initramfs
external-boot = true
"""

STOCK = (
    _ROOT.format(wiper="overlay")
    + """
[root.overlay]
volume = "/persistent"

[[volumes]]
mount-point = "/persistent"
device = "/dev/vg0/store"
type = "ext4"
timeout = "20s"

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""
)

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
# What is typed takes longer than the volume is waited for.
LAPTOP_FSTAB = """\
/dev/root_vg/root / btrfs subvol=root 0 0
/dev/root_vg/root /persistent btrfs subvol=persistent,x-initrd.mount,x-systemd.device-timeout=5s 0 0
"""

# The array is waited for more briefly than dracut waits before it starts it without a disk.
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
SERVER_FSTAB = """\
/dev/vda  /           btrfs  subvol=root   0 0
/dev/vda  /srv/later  btrfs  subvol=later  0 0
"""
SERVER_STORES = ("/persistent", "/srv/data", "/srv/data/pool", "/srv/books")

_CHEAP = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
_SCRIPT = f"""\
copy() {{ dd if="$1" of="$2" bs=1M conv=sparse status=none; }}
files() {{
    mkdir -p /mnt
    mount "$1" /mnt
    tar -x -f "{builder.FILES}/$2" -C "/mnt/$3"
    umount /mnt
}}
encrypt() {{
    printf %s '{PASSPHRASE}' | cryptsetup luksFormat --batch-mode --type luks2 --uuid "$2" \\
        --cipher aes-xts-plain64 --key-size 256 {_CHEAP} "$1" -
    printf %s '{PASSPHRASE}' | cryptsetup luksAddKey {_CHEAP} --key-file - "$1" {builder.FILES}/key
    cryptsetup open --key-file {builder.FILES}/key "$1" "$3"
}}

vgcreate -y vg0 "$stock"
lvcreate -y -L 1500M -n root vg0
lvcreate -y -l 100%FREE -n store vg0
copy "$installed" /dev/vg0/root
mkfs.ext4 -q /dev/vg0/store
files /dev/vg0/store stock .
vgchange -an vg0

encrypt "$laptop" {LAPTOP_LUKS} laptop
vgcreate -y root_vg /dev/mapper/laptop
lvcreate -y -l 100%FREE -n root root_vg
copy "$readme" /dev/root_vg/root
vgchange -an root_vg
cryptsetup close laptop

encrypt "$vault" {VAULT_LUKS} vault
mkfs.btrfs -q -U {VAULT} -L vault /dev/mapper/vault
mkdir -p /mnt
mount /dev/mapper/vault /mnt
btrfs subvolume create /mnt/persistent
umount /mnt
files /dev/mapper/vault persistent persistent
cryptsetup close vault

mdadm --create /dev/md/data --run --assume-clean --metadata=1.2 --homehost=any --name=data \\
    --uuid={ARRAY} --level=1 --raid-devices=2 "$left" "$right"
mkfs.xfs -q -m uuid={DATA} /dev/md/data
files /dev/md/data srv-data .
mdadm --stop /dev/md/data

mkfs.btrfs -q -L pool "$pool_a" "$pool_b"
files "$pool_a" srv-data-pool .

mkfs.ext4 -q -L 'my books' "$books"
files "$books" srv-books .
tune2fs -c 30 -C 40 "$books"
"""


@dataclass(frozen=True)
class Storage:
    """The machines, and all disks by their names in the builder's script."""

    stock: Ephemeral
    laptop: Ephemeral
    server: Ephemeral
    disks: Mapping[str, Disk]
    server_root: Disk

    def copies(self, scratch: Path, *names: str) -> tuple[Disk, ...]:
        """Copies to boot from; `root` is the server's."""
        made = []
        for name in names:
            source = self.server_root if name == "root" else self.disks[name]
            number = len(list(scratch.glob("*.raw")))
            made.append(source.copy(scratch / f"{number}-{name}.raw"))
        return tuple(made)


def storage(bench: Bench, package: Path) -> Storage:
    """All of it, from the cache or made."""
    cache = bench.cache
    plain = debian_system(cache, VOLUMES)
    stock = make(cache, plain, package, STOCK)
    laptop = make(cache, plain, package, LAPTOP, others={"etc/fstab": LAPTOP_FSTAB})
    crypttab = f"vault UUID={VAULT_LUKS} /etc/keys/vault luks,x-initrd.attach\n"
    files: dict[str, Content] = {
        "etc/fstab": SERVER_FSTAB,
        "etc/crypttab": crypttab,
        "etc/keys/vault": File(KEY, 0o400),
    }
    server = make(cache, plain, package, SERVER, others=files, stores=SERVER_STORES)
    sources = {
        "installed": prepared(cache, Ext4(root="/dev/mapper/vg0-root"), bench.tools, stock.system),
        "readme": prepared(cache, _btrfs(LAPTOP_FSTAB, laptop.store), bench.tools, laptop.system),
    }
    recipe = builder.Recipe(
        disks={
            "stock": "2G",
            "laptop": "2100M",
            "vault": "256M",
            **dict.fromkeys(("left", "right"), "400M"),
            **dict.fromkeys(("pool_a", "pool_b"), "256M"),
            "books": "64M",
        },
        script=_SCRIPT,
        files={
            "key": KEY,
            "stock": _tar(stock.store),
            **{path.strip("/").replace("/", "-"): _tar(f) for path, f in server.stores.items()},
        },
    )
    disks = builder.built(bench, plain, initramfs.make(cache, plain), recipe, sources)
    root = _btrfs(SERVER_FSTAB, None)
    return Storage(stock, laptop, server, disks, prepared(cache, root, bench.tools, server.system))


def _btrfs(fstab: str, store: Mapping[str, Content] | None) -> Btrfs:
    """Base, root, and the store or what nobody needs for booting."""
    other = Subvolume("later") if store is None else Subvolume("persistent", files=store)
    return Btrfs(
        subvolumes=(
            Subvolume("root-base", tree=True, files={"etc/fstab": fstab}),
            Subvolume("root", snapshot_of="root-base", files={"etc/lost": "of the first root\n"}),
            other,
        )
    )


def _tar(files: Mapping[str, Content]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in sorted(files.items()):
            one = layer.file(content)
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(one.content), one.mode
            archive.addfile(member, io.BytesIO(one.content))
    return stream.getvalue()
