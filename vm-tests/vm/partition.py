"""A disk with a partition table: one primary partition, known by its PARTUUID."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loop_device import attached
from vm.cache import Cache
from vm.command import run
from vm.disk import Btrfs
from vm.loop import mount
from vm.system import System
from vm.tools import Tools

START = 1 << 20
_SECTOR = 512
_SIGNATURE, _TABLE, _LINUX = 440, 446, 0x83


@dataclass(frozen=True)
class Partitioned:
    """The `inner` filesystem in the only partition of a disk with the `identifier` (32 bits)."""

    inner: Btrfs
    identifier: int = 0xC0FFEE01

    @property
    def size(self) -> str:
        """See Layout."""
        return self.inner.size

    @property
    def partuuid(self) -> str:
        """The spelling of the kernel and udev for the first partition of a DOS table."""
        return f"{self.identifier:08x}-01"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        inside = image.with_suffix(".inner")
        length = image.stat().st_size - START
        run(["truncate", "--size", str(length), inside])
        self.inner.fill(inside, cache, tools, system)
        blocks = ["bs=1M", f"seek={START >> 20}", "conv=sparse,notrunc", "status=none"]
        run(["dd", f"if={inside}", f"of={image}", *blocks])
        inside.unlink()
        with image.open("r+b") as disk:
            disk.write(self._boot_record(length // _SECTOR))

    def _boot_record(self, sectors: int) -> bytes:
        record = bytearray(_SECTOR)
        record[_SIGNATURE : _SIGNATURE + 4] = self.identifier.to_bytes(4, "little")
        record[_TABLE + 4] = _LINUX
        record[_TABLE + 8 : _TABLE + 12] = (START // _SECTOR).to_bytes(4, "little")
        record[_TABLE + 12 : _TABLE + 16] = sectors.to_bytes(4, "little")
        record[-2:] = b"\x55\xaa"
        return bytes(record)


@contextmanager
def partition(image: Path) -> Iterator[Path]:
    """A loop device over the partition of that image; detached at the end."""
    with attached(image, START) as device:
        yield device


@contextmanager
def top_level(device: Path, folder: Path) -> Iterator[Path]:
    """The top level of the btrfs on `device`, mounted at the new `folder`."""
    folder.mkdir()
    mount(device, folder, "btrfs", "subvolid=5")
    try:
        yield folder
    finally:
        run(["umount", folder])
        folder.rmdir()
