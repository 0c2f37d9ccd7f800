"""The top level of a btrfs (``subvolid=5``), mounted privately while we work on it."""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import Refused
from ephemeroot.linux import devices, mountinfo, mounts
from ephemeroot.wipers.btrfs import subvolumes

_SUPER = 0x10000
_DEVICES = 0x88  # num_devices in struct btrfs_super_block
_DEVICES_HINT = "'blkid' lists the devices; set device in [root.btrfs] or root= to one of them"
_ST_RDONLY = 1


class Toplevel:
    """A private mount of the top level of the btrfs on ``device``.

    ``path`` is where it is mounted and ``fd`` an open descriptor of it, ``uuid`` the
    filesystem's. ``close`` unmounts. Unless *writable* the mount is read-only, whatever the
    filesystem is. Raises ``Refused`` if the device is missing, is not a btrfs filesystem or cannot
    be mounted as asked for.
    """

    __slots__ = ("device", "fd", "number", "path", "uuid", "writable")

    def __init__(
        self, device: str, options: list[str], private: str, *, writable: bool = True
    ) -> None:
        self.writable = writable
        self.device, self.uuid = find(device)
        self.path = f"{private}/top"
        self.fd = -1
        self.number = ""
        self._mount([*options, *_other_devices(self.device, self.uuid)])

    def _mount(self, options: list[str]) -> None:
        # First of all: what a run that was killed here has left.
        while mountinfo.mounted_at(os.path.realpath(self.path)):
            mounts.detach(self.path)
        os.makedirs(self.path, 0o700, exist_ok=True)
        try:
            mount = self._create([*options, "subvolid=5"])
        except OSError as error:
            lacks = devices.missing_members(self.device)
            raise Refused(
                f"cannot mount the btrfs on {self.device}: {lacks or error.strerror}",
                "a filesystem of several devices needs all of them in the initramfs, or degraded "
                "in rootflags= on the kernel command line",
            ) from error
        try:
            flags = 0 if self.writable else mounts.MOUNT_ATTR_RDONLY
            mounts.set_flags(mount, set_=flags, private=True, name=self.path)
            target = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                mounts.attach(mount, target, name=self.path)
            finally:
                os.close(target)
        finally:
            os.close(mount)
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            self._inspect()
        except BaseException:
            self.close()
            raise

    def _create(self, options: list[str]) -> int:
        """The mount, detached. To read, no superblock is made writable: on Linux 6.18 a context
        without ``ro`` does that to a read-only one. Older kernels refuse a context with ``ro``
        (EBUSY) if the superblock is writable: it is then used as it is.
        """
        if not self.writable:
            try:
                return mounts.create("btrfs", self.device, [*options, "ro"])
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
        return mounts.create("btrfs", self.device, options)

    def _inspect(self) -> None:
        mount = mountinfo.mounted_at(os.path.realpath(self.path))
        if mount is None:
            raise Refused(f"{self.path} is not mounted although the mount succeeded")
        self.number = mount.major_minor
        if self.writable and os.fstatvfs(self.fd).f_flag & _ST_RDONLY:
            raise Refused(
                f"the btrfs on {self.device} can only be mounted read-only",
                "look for its errors in the kernel log",
            )

    def close(self) -> None:
        """Unmount. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            mounts.detach(self.path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted
                raise

    def __enter__(self) -> Toplevel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self) -> None:
        """Make everything done so far survive a power cut."""
        subvolumes.commit(self.fd)

    def free(self) -> tuple[int, int]:
        """Bytes available and bytes in all."""
        status = os.fstatvfs(self.fd)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def mounted(self) -> set[str]:
        """Which paths of this filesystem, from its top, are mounted or are mount points.

        In any mount namespace that can be seen: a container may be running from an old
        root. A bind mount of something inside a root counts as that something.
        """
        found: set[str] = set()
        for text in mountinfo.everywhere():
            ours = {}
            for mount in mountinfo.mounts(text):
                if mount.major_minor == self.number and mount.fstype == "btrfs":
                    ours[mount.id] = mount
                    found.add(mount.root.strip("/"))
                below = ours.get(mount.parent)
                if below is not None:
                    relative = mount.point[len(below.point.rstrip("/")) :]
                    found.add(f"{below.root.rstrip('/')}{relative}".strip("/"))
        return found


def is_mounted(path: str, mounted: set[str]) -> bool:
    """Whether *path*, or something in it, is among those that ``mounted`` returned."""
    return any(root == path or root.startswith(path + "/") for root in mounted)


def find(device: str) -> tuple[str, str]:
    """The path of the device that *device* names, and the UUID of the btrfs on it.

    Raises ``Refused`` if it does not name a device, cannot be read, or is not a btrfs.
    """
    try:
        path = os.path.realpath(devices.link(device), strict=True)
        uuid = devices.btrfs_uuid(path)
    except ValueError:
        raise Refused(
            f"{device!r} does not name a device", "UUID=, LABEL=, PARTUUID= or a path"
        ) from None
    except OSError as error:
        raise Refused(
            f"the device {device} cannot be read: {error.strerror}", _DEVICES_HINT
        ) from error
    if uuid is None:
        raise Refused(f"{device} is not a btrfs filesystem", _DEVICES_HINT)
    return path, uuid


def _other_devices(path: str, uuid: str) -> list[str]:
    """``device=`` options for the other devices of the filesystem, if it has several.

    udev's ``btrfs ready`` registers them with the kernel; without udev they are not registered.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        count = int.from_bytes(os.pread(fd, 8, _SUPER + _DEVICES), "little")
    finally:
        os.close(fd)
    if count < 2:
        return []
    found = []
    for name in devices.block_devices():
        other = "/dev/" + name.replace("!", "/")
        try:
            if other != path and devices.btrfs_uuid(other) == uuid:
                found.append(f"device={other}")
        except OSError:  # a drive without a medium, or a removed device
            continue
    return found
