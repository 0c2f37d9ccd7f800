"""Unified kernel images: UEFI programs with the kernel and the initramfs as sections.

The format is PE/COFF (learn.microsoft.com, "PE Format"); UAPI.5 defines the sections.
"""

from __future__ import annotations

import struct

from ephemeroot.errors import Damaged

_MAGIC = b"MZ"
_WIDE = 0x20B
_CERTIFICATES = 4


def is_unified(data: bytes) -> bool:
    """Whether *data* starts like a UEFI program."""
    return data[:2] == _MAGIC


def initramfs(data: bytes) -> bytes:
    """The initramfs in *data*, a whole image. Raises ``Damaged``."""
    try:
        table, count = _sections(data)
        for position in range(table, table + 40 * count, 40):
            name, size, _, stored, start = struct.unpack_from("<8sIIII", data, position)
            if name.rstrip(b"\0") == b".initrd":
                return data[start : start + min(size, stored)]
    except struct.error:
        raise Damaged("the UEFI program is damaged") from None
    raise Damaged("the UEFI program does not contain an initramfs")


def is_signed(data: bytes) -> bool:
    """Whether the image *data* has a signature (for Secure Boot), of any signer."""
    try:
        header = _header(data)
        wide = struct.unpack_from("<H", data, header + 24)[0] == _WIDE
        directories = header + 24 + (112 if wide else 96)
        if struct.unpack_from("<I", data, directories - 4)[0] <= _CERTIFICATES:
            return False
        size = struct.unpack_from("<II", data, directories + 8 * _CERTIFICATES)[1]
        return bool(size)
    except struct.error:
        return False


def _header(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0x3C)[0])


def _sections(data: bytes) -> tuple[int, int]:
    """The offset of the section table, and the number of sections."""
    header = _header(data)
    count = struct.unpack_from("<H", data, header + 6)[0]
    optional = struct.unpack_from("<H", data, header + 20)[0]
    return header + 24 + optional, count
