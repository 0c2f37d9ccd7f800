"""Members of an MD mirror, as mdadm would have made them: mdadm needs the kernel's MD.

The superblock is version 1.2 (linux/raid/md_p.h, struct mdp_superblock_1), 4 KiB from the start.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache
from vm.disk import Layout, copy_extents, prepared
from vm.system import System
from vm.tools import Tools

_MAGIC = 0xA92B4EFC
_SUPERBLOCK = 8  # sectors
_DATA = 1  # MiB
_PER_MIB = 2048
_CLEAN = (1 << 64) - 1
_MEMBERS = 2
_ROLES = 128


@dataclass(frozen=True)
class Member:
    """Member `number` (0 or 1) of a clean mirror with `inner` in it; `array` is mdadm's spelling of
    its UUID, `name` as metadata has it (`host:name`)."""

    inner: Layout
    number: int
    array: str
    name: str

    @property
    def size(self) -> str:
        """See Layout."""
        return f"{int(self.inner.size.removesuffix('M')) + _DATA}M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        # Both members have the same content.
        content = prepared(cache, self.inner, tools, system).image
        copy_extents(content, image, _DATA << 20)
        with image.open("r+b") as disk:
            disk.seek(_SUPERBLOCK * 512)
            disk.write(self._superblock(content.stat().st_size // 512))

    def _superblock(self, sectors: int) -> bytes:
        device = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.array} {self.number}").bytes
        identity = bytes.fromhex(self.array.replace(":", ""))
        array = struct.pack(
            "<IIII16s32sQIIQIII28x",
            *(_MAGIC, 1, 0, 0, identity, self.name.encode()),
            *(1700000000, 1, 0, sectors, 0, _MEMBERS, 0),
        )
        this = struct.pack(
            "<QQQQII16sBBHI",
            *(_DATA * _PER_MIB, sectors, _SUPERBLOCK, 0, self.number, 0, device, 0, 0, 0, 0),
        )
        roles = [*range(_MEMBERS), *[0xFFFF] * (_ROLES - _MEMBERS)]

        def state(checksum: int) -> bytes:
            return struct.pack("<QQQII32x", 1700000000, 1, _CLEAN, checksum, _ROLES)

        tail = struct.pack(f"<{_ROLES}H", *roles)
        words = struct.unpack(f"<{64 + _ROLES // 2}I", array + this + state(0) + tail)
        total = sum(words)
        return array + this + state((total & 0xFFFFFFFF) + (total >> 32)) + tail
