"""Block devices by their usual names: ``UUID=``, ``LABEL=``, ``/dev/…``.

udev makes the links under /dev/disk; this module uses no library and does not wait.
"""

from __future__ import annotations

import os
import stat

from ephemeroot.linux import paths

_LINKS = {
    "UUID": "by-uuid",
    "LABEL": "by-label",
    "PARTUUID": "by-partuuid",
    "PARTLABEL": "by-partlabel",
    "ID": "by-id",
}
# udev keeps these and letters and digits, and replaces other characters by \xNN
# (systemd, src/basic/device-nodes.c, allow_listed_char_for_devnode).
_PLAIN = frozenset(b"#+-.:=@_/")

# fs/btrfs: the primary superblock; offsets from include/uapi/linux/btrfs_tree.h
_BTRFS_SUPER = 0x10000
_BTRFS_MAGIC = b"_BHRfS_M"


def link(spec: str) -> str:
    """The path in /dev that *spec* names: ``UUID=x`` is ``/dev/disk/by-uuid/x``.

    A path is returned unchanged. Raises ``ValueError`` for other specs.
    """
    if spec.startswith("/"):
        return spec
    key, equals, value = spec.partition("=")
    if not equals or key not in _LINKS:
        raise ValueError(spec)
    value = value.strip('"')
    if key in ("UUID", "PARTUUID"):
        value = value.lower() if "-" in value and len(value) == 36 else value
    return f"/dev/disk/{_LINKS[key]}/{_encode(value)}"


def _encode(value: str) -> str:
    out = []
    for byte in os.fsencode(value):
        if byte in _PLAIN - {0x2F} or (chr(byte).isalnum() and byte < 0x80) or byte >= 0x80:
            out.append(bytes((byte,)))
        else:
            out.append(b"\\x%02x" % byte)
    return os.fsdecode(b"".join(out))


def named(spec: str) -> str:
    """The block device of *spec* (``UUID=…``, a link), named as by mount(8); *spec* itself if it is
    of another kind, such as a dataset.
    """
    try:
        return canonical(link(spec))
    except ValueError:
        return spec


def number(path: str) -> int:
    """The device number of the block device *path* (links are followed).

    Raises ``FileNotFoundError`` if it is missing and ``OSError`` (ENOTBLK) if it is not a block
    device.
    """
    status = os.stat(path)
    if not stat.S_ISBLK(status.st_mode):
        raise OSError(15, os.strerror(15), path)  # ENOTBLK
    return status.st_rdev


def canonical(path: str) -> str:
    """The block device *path*, named as by mount(8): without links, and a mapping by its name in
    /dev/mapper (libmount, canonicalize_dm_name).

    Programs that search mountinfo for a device (df, growfs, boot loaders) expect that name.
    """
    real = os.path.realpath(path)
    mapped = mapping(f"/sys/block/{os.path.basename(real)}")
    return mapped if mapped is not None and os.path.exists(mapped) else real


def mapping(folder: str) -> str | None:
    """The path in /dev/mapper of a mapping (LUKS, LVM); ``None`` if the block device with that
    *folder* in sysfs is not a mapping.
    """
    try:
        name = paths.read(f"{folder}/dm/name")
    except OSError:
        return None
    return f"/dev/mapper/{os.fsdecode(name).strip()}"


def btrfs_uuid(path: str) -> str | None:
    """The UUID of the btrfs on the block device (or image file) *path*, else ``None``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = os.pread(fd, 0x48, _BTRFS_SUPER)
    finally:
        os.close(fd)
    if block[0x40:0x48] != _BTRFS_MAGIC:
        return None
    return format_uuid(block[0x20:0x30])


def btrfs_wide(options: list[str]) -> list[str]:
    """The mount *options* that concern a btrfs as a whole (btrfs(5)), which its first mount must
    have.
    """
    return [o for o in options if o.partition("=")[0] in ("degraded", "device", "usebackuproot")]


def missing_members(path: str) -> str:
    """The missing devices of the btrfs on the device *path*, in a few words; empty if all are
    present, or if it is not a btrfs.
    """
    found: dict[int, str] = {}
    total = 0
    try:
        uuid = btrfs_uuid(path)
        for name in block_devices() if uuid is not None else []:
            device = "/dev/" + name.replace("!", "/")
            member = _btrfs_member(device, uuid)
            if member is not None:
                total = member[1]
                found.setdefault(member[0], device)
    except OSError:
        return ""
    if not found or len(found) >= total:
        return ""
    ids = [number for number in range(1, total + 1) if number not in found]
    from ephemeroot import amounts  # imported only for an error

    which = f"device {amounts.listed([str(one) for one in ids])}" if ids else "one"
    return f"{which} of {total} is missing, found: {amounts.listed(sorted(found.values()))}"


def _btrfs_member(path: str, uuid: str | None) -> tuple[int, int] | None:
    """The id of the device *path* in the btrfs with that *uuid*, and its number of devices;
    ``None`` if it is not one of them (struct btrfs_super_block: num_devices, dev_item.devid).
    """
    try:
        if btrfs_uuid(path) != uuid:
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a drive without a medium
        return None
    try:
        block = os.pread(fd, 0xD1, _BTRFS_SUPER)
    finally:
        os.close(fd)
    return int.from_bytes(block[0xC9:0xD1], "little"), int.from_bytes(block[0x88:0x90], "little")


def filesystem_uuid(path: str) -> str | None:
    """The UUID of the filesystem on the block device *path*, as blkid(8) prints it; ``None``
    without a filesystem, or if its type is unknown to this module and to udev.

    Raises ``OSError`` if the device cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        found = _uuid_of_udev(path)
        if found is None:
            raise
        return found
    try:
        head = os.pread(fd, 0x4B0, 0)
        btrfs = os.pread(fd, 0x48, _BTRFS_SUPER)
    finally:
        os.close(fd)
    if btrfs[0x40:0x48] == _BTRFS_MAGIC:
        return format_uuid(btrfs[0x20:0x30])
    if head[:4] == b"XFSB":  # fs/xfs/libxfs/xfs_format.h: sb_uuid
        return format_uuid(head[0x20:0x30])
    if head[0x438:0x43A] == b"\x53\xef":  # fs/ext4/ext4.h: s_uuid
        return format_uuid(head[0x468:0x478])
    if head[0x400:0x404] == b"\x10\x20\xf5\xf2":  # include/linux/f2fs_fs.h: uuid
        return format_uuid(head[0x46C:0x47C])
    return _uuid_of_udev(path)


def filesystem_type(path: str) -> str:
    """The type (mount(8)) of the filesystem on the block device *path*; empty if this module does
    not know it. Raises ``OSError`` if the device cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, 0x480, 0)
        btrfs = os.pread(fd, 8, _BTRFS_SUPER + 0x40)
    finally:
        os.close(fd)
    if btrfs == _BTRFS_MAGIC:
        return "btrfs"
    if head[:4] == b"XFSB":
        return "xfs"
    if head[0x400:0x404] == b"\x10\x20\xf5\xf2":
        return "f2fs"
    if head[0x438:0x43A] == b"\x53\xef":
        # fs/ext4/ext4.h: s_feature_compat, s_feature_incompat; ext4 has extents, 64bit or flex_bg.
        incompat = int.from_bytes(head[0x460:0x464], "little")
        if incompat & (0x40 | 0x80 | 0x200):
            return "ext4"
        return "ext3" if int.from_bytes(head[0x45C:0x460], "little") & 4 else "ext2"
    if head[0x52:0x57] == b"FAT32" or head[0x36:0x39] == b"FAT":
        return "vfat"
    return ""


def _uuid_of_udev(path: str) -> str | None:
    """ID_FS_UUID of the device in udev's database (systemd, src/libsystemd/sd-device)."""
    device = os.stat(path).st_rdev
    try:
        raw = paths.read(f"/run/udev/data/b{os.major(device)}:{os.minor(device)}", 1 << 20)
    except OSError:
        return None
    for line in raw.split(b"\n"):
        if line.startswith(b"E:ID_FS_UUID="):
            return os.fsdecode(line.partition(b"=")[2])
    return None


def format_uuid(raw: bytes) -> str:
    """Sixteen bytes in the usual form of a UUID."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def block_devices() -> list[str]:
    """The names in /sys/class/block, for messages about missing devices."""
    try:
        return sorted(paths.names("/sys/class/block"))
    except OSError:
        return []


def size(name: str) -> int:
    """The size in bytes of the block device *name* in /sys/class/block."""
    return int(paths.read(f"/sys/class/block/{name}/size").strip() or b"0") * 512
