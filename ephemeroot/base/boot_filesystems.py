"""The filesystems that the boot loader uses: found wherever they are mounted, and required to be.

A command that installs a kernel writes to ``/boot`` or ``/efi``. If the
filesystem for it is not mounted, the files arrive in the root's own directory, which
does not boot anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.base import boot_places
from ephemeroot.base.boot_places import Declared
from ephemeroot.errors import Refused
from ephemeroot.image import kernel_image
from ephemeroot.linux import devices, kernel, mountinfo, mounts, namespace, paths
from ephemeroot.linux.mountinfo import Mount

LARGEST = 2 << 30
"""Bytes in use above which a filesystem with boot files, in an unusual place, is not saved."""

_VIRTUAL = frozenset((
    "autofs", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs",
    "sysfs", "tracefs",
))  # fmt: skip
# No boot loader of this machine reads these, unless they are at a place of its own: servers, which
# may not answer, containers, and images that nothing can change.
_NEVER_LOOKED_AT = frozenset((
    "9p", "afs", "ceph", "cifs", "erofs", "glusterfs", "iso9660", "nfs", "nfs4", "overlay", "smb3",
    "squashfs", "udf", "virtiofs",
))  # fmt: skip
# What a boot loader reads, at the top of the filesystem, in small letters: files, and directories
# with at least one file that ends so.
_FILES = frozenset((
    "grub.cfg", "grubenv", "limine.conf", "limine.cfg", "extlinux.conf", "syslinux.cfg",
    "isolinux.cfg", "refind.conf", "boot.scr", "uenv.txt", "uboot.env",
))  # fmt: skip
_DIRECTORIES = {
    "efi": (".efi",), "loader": ("loader.conf", "entries.srel", ".conf"), "grub": (".cfg", ".mod"),
    "grub2": (".cfg", ".mod"), "extlinux": (".conf",), "syslinux": (".cfg", ".c32", ".sys"),
    "limine": (".conf", ".cfg"), "refind": (".conf",), "arm64-efi": (".mod",),
    "i386-pc": (".mod",), "x86_64-efi": (".mod",),
}  # fmt: skip
_DEPTH, _ENTRIES = 3, 1000
_INITRAMFS = ("initrd", "initramfs")
# How a filesystem is mounted so that looking at it does not change it.
_ONLY_TO_LOOK = {
    "vfat": ("ro",), "msdos": ("ro",), "exfat": ("ro",), "ext2": ("ro",), "ext3": ("ro", "noload"),
    "ext4": ("ro", "noload"), "xfs": ("ro", "norecovery"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BootFilesystem:
    """A mounted filesystem with files of the boot loader: ``point`` is its mount point,
    ``identity`` distinguishes it from another one at the same place: the UUID, or the device's
    path, and the directory in it.
    """

    point: str
    identity: str

    @classmethod
    def of(cls, mount: Mount) -> BootFilesystem:
        """The filesystem of *mount*."""
        return cls(mount.point, identity(mount))


def trigger() -> None:
    """Have the automounts mounted that the boot loader's files are behind.

    To be called in the machine's own mount namespace, before a private one is made. Raises
    ``Refused`` for one that cannot be mounted.
    """
    behind = {one.point: one for one in boot_places.here() if one.device}
    woken: set[str] = set()
    while waiting := _waiting() - woken:
        # One of them may have another in it: /boot, and /boot/efi.
        point = min(waiting, key=len)
        woken.add(point)
        one = behind.get(point)
        if _is_known_by_place(point) or (one is not None and _has_boot_files(one)):
            wake(point)


def _waiting() -> set[str]:
    found = {mount.point for mount in mountinfo.mounts() if mount.fstype == "autofs"}
    return {point for point in found if not boot_places.is_never(point)}


def wake(point: str) -> None:
    """Have the automount at *point* mounted, if there is one. Raises ``Refused``."""
    found = mountinfo.mounted_at(point)
    if found is None or found.fstype != "autofs":
        return
    try:
        os.close(os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        reason = "it stays empty"
    except OSError as error:
        reason = str(error.strerror)
    found = mountinfo.mounted_at(point)
    if found is None or found.fstype == "autofs":
        raise Refused(
            f"the automount at {point} does not mount its filesystem: {reason}",
            f"'systemctl status $(systemd-escape --path --suffix=mount {point})' shows why",
        )


def find(*, to_save: bool = True) -> list[BootFilesystem]:
    """The mount now, parents first. If it is *to_save*, raises ``Refused`` for one that is
    too large for that and need not be mounted.
    """
    root = mountinfo.mounted_at("/")
    own = root.major_minor if root is not None else ""
    known = {one.point for one in boot_places.here()}
    found: dict[str, BootFilesystem] = {}
    for point in dict.fromkeys(mount.point for mount in mountinfo.mounts()):
        mount = mountinfo.mounted_at(point)
        if mount is None or not _can_be_one(mount):
            continue
        if not _is_known_by_place(point):
            # A directory of a store that is bound, or another subvolume, is not a filesystem of
            # its own.
            if mount.major_minor == own or mount.root != "/" or not _looks_like_one(point):
                continue
            if to_save and point not in known:
                _require_small(point)
        found[point] = BootFilesystem.of(mount)
    return sorted(found.values(), key=lambda one: (one.point.count("/"), one.point))


def require_mounted(*, awake: bool = True) -> None:
    """Raise ``Refused`` if this machine declares a filesystem for the boot loader that is not
    mounted. Unless automounts are *awake*, one that waits is good enough.
    """
    for one in _missing(boot_places.here(), awake=awake):
        raise Refused(
            f"{one.point} is not mounted, but {one.origin} has a filesystem for it: files that the "
            "command writes there would not be booted",
            f"run 'mount {one.point}', or remove that entry if it is not needed",
        )


def expected(base: int) -> list[str]:
    """Mount points of boot filesystems that the open *base* declares and that are not mounted. They
    do not stop a run, because only a run can change the declaration.
    """
    return [one.point for one in _missing(boot_places.of_base(base))]


def _missing(declared: Iterable[Declared], *, awake: bool = True) -> Iterator[Declared]:
    for one in declared:
        if one.point == "/" or one.type == "swap" or boot_places.is_never(one.point):
            continue
        mount = mountinfo.mounted_at(os.path.realpath(one.point))
        if mount is not None and (mount.fstype != "autofs" or not awake):
            continue
        if _is_known_by_place(one.point) or _has_boot_files(one):
            yield one


@contextmanager
def held(filesystems: Sequence[BootFilesystem]) -> Iterator[Callable[[], None]]:
    """Keep *filesystems* in use, so that no automount unmounts them when they are idle.

    Yields a function that writes all their data to disk (syncfs(2)). It raises ``Refused`` if a
    write to a disk has failed since then.
    """
    opened: list[tuple[str, int]] = []

    def sync() -> None:
        for point, fd in opened:
            try:
                kernel.sync_filesystem(fd, point)
            except OSError as error:
                raise Refused(
                    f"the filesystem at {point} cannot be written to its disk: {error.strerror}",
                    "look for errors of the disk in the kernel log",
                ) from error

    with ExitStack() as stack:
        for one in filesystems:
            fd = os.open(one.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            opened.append((one.point, fd))
        yield sync


def is_mounted(one: BootFilesystem) -> bool:
    """Whether *one*, and not another filesystem, is where it was."""
    mount = mountinfo.mounted_at(one.point)
    if mount is None or mount.fstype == "autofs":
        return False
    return not one.identity or BootFilesystem.of(mount) == one


def _is_known_by_place(point: str) -> bool:
    if boot_places.is_named(point):
        return True
    return point != "/" and any(
        place == point or place.startswith(f"{point}/") for place in boot_places.holders()
    )


def _can_be_one(mount: Mount) -> bool:
    if mount.fstype in _VIRTUAL or mount.point in ("/", namespace.POINT):
        return False
    if mount.fstype in _NEVER_LOOKED_AT or mount.fstype.startswith("fuse"):
        if not _is_known_by_place(mount.point):
            return False
    # A file is bound there, or another mount is over it.
    return os.path.isdir(mount.point) and not boot_places.is_never(mount.point)


def identity(mount: Mount) -> str:
    """The identity of the filesystem of *mount* and of the directory in it."""
    source = mount.source
    if source.startswith("/dev/"):
        try:
            uuid = devices.filesystem_uuid(source)
        except OSError:
            uuid = None
        if uuid is not None:  # else the device's path has to do, which another boot may change
            source = f"UUID={uuid}"
    return f"{source} {mount.root}"


def _has_boot_files(one: Declared) -> bool:
    """Whether the filesystem of *one*, which need not be mounted, has files of a boot loader."""
    try:
        device = os.path.realpath(devices.link(one.device))
        options = _ONLY_TO_LOOK.get(one.type)
        if options is None or not os.path.exists(device):
            return False
        mount = mounts.create(one.type, device, list(options))
    except (OSError, ValueError):
        return False
    try:
        # Through the descriptor: the mount is not attached anywhere.
        return _looks_like_one(mounts.fd_path(mount))
    finally:
        os.close(mount)


def _looks_like_one(top: str) -> bool:
    """Whether the mount at *top* has files of a boot loader, or a kernel, in it."""
    try:
        with paths.entries(top) as found:
            for entry in found:
                name = entry.name.lower()
                if entry.is_dir(follow_symlinks=False):
                    endings = _DIRECTORIES.get(name)
                    if endings is not None and _has_file(entry.path, endings):
                        return True
                elif entry.is_file(follow_symlinks=False):
                    if name in _FILES or name.startswith(_INITRAMFS):
                        return True
                    if kernel_image.is_named_like_a_kernel(Path(top, entry.name)):
                        return True
    except OSError:
        return False
    return False


def _has_file(folder: str, endings: tuple[str, ...]) -> bool:
    left, folders = _ENTRIES, [(folder, 0)]
    for place, depth in folders:
        for entry in paths.entries(place):
            left -= 1
            if left < 0:
                return False
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEPTH:
                    folders.append((entry.path, depth + 1))
            elif entry.name.lower().endswith(endings):
                return True
    return False


def _require_small(point: str) -> None:
    status = os.statvfs(point)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    if used > LARGEST:
        raise Refused(
            f"{point} has files of a boot loader and {used >> 30} GiB on it, too much to save "
            "before the command runs",
            f"run 'umount {point}', or give it a line in /etc/fstab if this machine boots from it",
        )
