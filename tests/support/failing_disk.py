"""A disk that fails: the kernel itself returns EIO, at chosen places and from a chosen moment on.

The disk is a loop device over a file in memory. A seal on that file (F_SEAL_WRITE, memfd_create(2))
makes each further write to the device fail, as on a disk that has died; its content can still be
read. Blocks become unreadable by a change behind the back of a btrfs, after which its checksums are
wrong. In both cases the filesystem and its callers get EIO.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loop_device import LoopDevice

_MKFS = {
    "btrfs": (128, ["-q", "-f"]),
    "ext4": (32, ["-q", "-F"]),
    "xfs": (320, ["-q"]),
}  # fmt: skip
_BLKFLSBUF = 0x1261  # linux/fs.h

UNREADABLE = "cannot be read"
"""A text in the content of a file, or in the names of a directory: see `FailingDisk.damage`."""


class FailingDisk:
    """A new filesystem of *fstype*; `path` is the device."""

    def __init__(self, fstype: str) -> None:
        self.fstype = fstype
        size, options = _MKFS[fstype]
        # mkfs.btrfs takes loop devices over files of one name for one device.
        name = f"disk-{uuid.uuid4()}"
        self.fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size << 20)
            self._device = LoopDevice(f"/proc/self/fd/{self.fd}")
            subprocess.run(
                [f"mkfs.{fstype}", *options, self._device.path], check=True, capture_output=True
            )
        except BaseException:
            self.close()
            raise
        self.path = self._device.path

    @contextmanager
    def mounted(self, place: Path, options: str = "rw") -> Iterator[Path]:
        """Mount it at *place* (a new or an existing directory)."""
        place.mkdir(parents=True, exist_ok=True)
        words = ["-t", self.fstype, "-o", options]
        subprocess.run(["mount", *words, self.path, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "-R", place], check=True)

    def refuse_writes(self) -> None:
        """Make each further write fail."""
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    def damage(self, text: str) -> None:
        """Make every block that contains *text* unreadable; the btrfs must not be mounted."""
        assert self.fstype == "btrfs"
        wanted, found, end = text.encode(), 0, 0
        size = os.fstat(self.fd).st_size
        while end < size:
            start = os.lseek(self.fd, end, os.SEEK_DATA) if _has_data(self.fd, end) else size
            end = os.lseek(self.fd, start, os.SEEK_HOLE) if start < size else size
            raw = os.pread(self.fd, end - start, start)
            at = raw.find(wanted)
            while at >= 0:
                os.pwrite(self.fd, b"!", start + at)
                found += 1
                at = raw.find(wanted, at + len(wanted))
        assert found > 0
        fcntl.ioctl(self._device.fd, _BLKFLSBUF)

    @contextmanager
    def held(self, folder: Path) -> Iterator[Path]:
        """Mount a copy of the disk's present content in the new directory *folder*."""
        image = folder.with_suffix(".image")
        held = f"/proc/{os.getpid()}/fd/{self.fd}"
        subprocess.run(["cp", "--sparse=always", held, image], check=True)
        folder.mkdir()
        with LoopDevice(image) as device:
            subprocess.run(["mount", "-t", self.fstype, device.path, folder], check=True)
            try:
                yield folder
            finally:
                subprocess.run(["umount", folder], check=True)
        image.unlink()
        folder.rmdir()

    def close(self) -> None:
        """Release the device."""
        device = getattr(self, "_device", None)
        if device is not None:
            device.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _has_data(fd: int, offset: int) -> bool:
    try:
        os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:  # ENXIO
        return False
    return True


@contextmanager
def failing_disk(fstype: str) -> Iterator[FailingDisk]:
    disk = FailingDisk(fstype)
    try:
        yield disk
    finally:
        disk.close()


def fill_file(path: Path, *, readable: bool = False) -> None:
    """A file of 16 kB, whose blocks `damage` finds unless it stays *readable*."""
    word = f"{path.name} {'is readable' if readable else UNREADABLE}\n"
    path.write_text((word * (1 + 16384 // len(word)))[:16384])


def fill_directory(path: Path) -> None:
    """A directory whose list of names `damage` finds: it has so many names that they fill whole
    blocks.
    """
    path.mkdir()
    for number in range(600):
        word = UNREADABLE if number == 300 else "x" * len(UNREADABLE)
        (path / f"{number:03} {word} {'y' * 180}").touch()
