"""Loop devices that belong to the process that made them, and to no other.

`losetup --detach /dev/loopN` takes a number, and the number is free again as soon as the kernel has
released the device: it may then belong to another process, whose filesystem would vanish. Here the
device stays open. While it is open, the kernel does not reuse its number; the device is released
when the last user has closed it (LO_FLAGS_AUTOCLEAR, linux/loop.h), also if the process is killed.

The kernel also remembers a device of a btrfs on several devices after the filesystem is unmounted
and the loop device is released. It would take the next filesystem under the same number for the
earlier one as soon as another mounted filesystem has its UUID, as copies of one image have:
mount(2) fails with EINVAL, then with EEXIST (fs/btrfs/volumes.c, find_fsid_by_device and
device_list_add). So this module makes btrfs forget a new device first: its number was free, so the
remembered information is out of date.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
_PARTITIONS = 8  # LO_FLAGS_PARTSCAN
_BTRFS_FORGET_DEV = 0x50009405  # _IOW(0x94, 5, struct btrfs_ioctl_vol_args), linux/btrfs.h

# struct loop_info64: device, inode, rdevice, offset, limit; number, encryption's type and key size,
# flags; the file's name, encryption's name and key; two numbers.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
# struct loop_config: file, block size, loop_info64, reserved.
_CONFIG = struct.Struct(f"=2I{_INFO.size}s8Q")


class LoopDevice:
    """A loop device over *image*, starting at the byte *offset*; `path` is its name.

    It exists until `close` has been called and nothing uses it any more. With `partitions` it can
    have partitions, which the kernel removes at the end. Raises OSError.
    """

    def __init__(
        self, image: str | os.PathLike[str], offset: int = 0, *, partitions: bool = False
    ) -> None:
        self.fd = -1
        file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        try:
            name = os.fsencode(image)[:63]
            flags = _AUTOCLEAR | (_PARTITIONS if partitions else 0)
            info = _INFO.pack(0, 0, 0, offset, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
            config = _CONFIG.pack(file, 0, info, *[0] * 8)
            control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
            try:
                while self.fd < 0:
                    self.fd = _configured(fcntl.ioctl(control, _LOOP_CTL_GET_FREE), config)
            finally:
                os.close(control)
        finally:
            os.close(file)
        self.path = Path(f"/dev/loop{os.minor(os.fstat(self.fd).st_rdev)}")
        try:
            _forget(self.path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LoopDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the device. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _configured(number: int, config: bytes) -> int:
    """The open loop device of that *number*; -1 if another process was faster."""
    try:
        device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # removed since
        return -1
    try:
        fcntl.ioctl(device, _LOOP_CONFIGURE, config)
    except OSError as error:
        os.close(device)
        if error.errno not in (errno.EBUSY, errno.ENXIO):
            raise
        return -1
    return device


def _forget(device: Path) -> None:
    try:
        control = os.open("/dev/btrfs-control", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # this kernel has not loaded btrfs: it remembers nothing
        return
    try:
        # struct btrfs_ioctl_vol_args: a descriptor, which is not used here, and the name.
        name = bytearray(struct.pack("=q4088s", 0, os.fsencode(device)))
        fcntl.ioctl(control, _BTRFS_FORGET_DEV, name)
    except OSError as error:
        if error.errno != errno.ENOENT:  # ENOENT: btrfs remembers no device of that number
            raise
    finally:
        os.close(control)


@contextmanager
def attached(
    image: str | os.PathLike[str], offset: int = 0, *, partitions: bool = False
) -> Iterator[Path]:
    """The path of a loop device over *image*, for the duration of a `with`."""
    with LoopDevice(image, offset, partitions=partitions) as device:
        yield device.path


def mount(image: str | os.PathLike[str], place: str | os.PathLike[str], *options: str) -> None:
    """Mount the filesystem in *image* at *place*; its device is released with the mount. *options*
    are those of mount(8).
    """
    with attached(image) as device:
        subprocess.run(["mount", *options, device, place], check=True)
