"""The dependencies that an ELF file declares (elf(5), ld.so(8))."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"\x7fELF"

# elf.h
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 14, 15, 29


@dataclass(frozen=True)
class Elf:
    """The header of an ELF file. ``machine`` is its class and machine, equal for compatible files.

    ``interpreter`` is the loader's path, ``needed`` the names of libraries, ``search`` the folders
    in the file (RUNPATH, else RPATH) with ``$ORIGIN`` replaced, ``soname`` the name by which others
    load the file, or empty.
    """

    machine: tuple[int, int]
    interpreter: str | None
    needed: tuple[str, ...]
    search: tuple[str, ...]
    soname: str = ""


def read(path: Path) -> Elf | None:
    """The header of *path*; ``None`` if it is not an ELF file. Raises ``OSError``."""
    data = path.read_bytes()
    if data[:4] != _MAGIC or len(data) < 64:
        return None
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    segments = _segments(data, wide, order)
    interpreter = None
    tags: list[tuple[int, int]] = []
    for kind, offset, _, size in segments:
        if kind == _PT_INTERP:
            interpreter = data[offset : offset + size].rstrip(b"\0").decode()
        elif kind == _PT_DYNAMIC:
            tags = _dynamic(data[offset : offset + size], wide, order)
    machine = struct.unpack_from(order + "H", data, 18)[0]
    strings = _strings(data, segments, tags)

    def texts(tag: int) -> list[str]:
        return [_text(strings, value) for found, value in tags if found == tag]

    folders = texts(_DT_RUNPATH) or texts(_DT_RPATH)
    return Elf(
        machine=(data[4], machine),
        interpreter=interpreter,
        needed=tuple(texts(_DT_NEEDED)),
        search=tuple(_origin(f, path) for text in folders for f in text.split(":") if f),
        soname="".join(texts(_DT_SONAME)[:1]),
    )


def _segments(data: bytes, wide: bool, order: str) -> list[tuple[int, int, int, int]]:
    """Type, offset, address and size of each program header."""
    if wide:
        start = struct.unpack_from(order + "Q", data, 32)[0]
        size, count = struct.unpack_from(order + "HH", data, 54)
    else:
        start = struct.unpack_from(order + "I", data, 28)[0]
        size, count = struct.unpack_from(order + "HH", data, 42)
    found = []
    for position in range(start, start + size * count, size):
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(
                order + "IIQQQQ", data, position
            )
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", data, position)
        found.append((kind, offset, address, length))
    return found


def _dynamic(section: bytes, wide: bool, order: str) -> list[tuple[int, int]]:
    tags = []
    for tag, value in struct.iter_unpack(order + ("qQ" if wide else "iI"), section):
        if tag == _DT_NULL:
            break
        tags.append((tag, value))
    return tags


def _strings(
    data: bytes, segments: list[tuple[int, int, int, int]], tags: list[tuple[int, int]]
) -> bytes:
    """The string table, found by its address."""
    for tag, address in tags:
        if tag != _DT_STRTAB:
            continue
        for kind, offset, start, size in segments:
            if kind == _PT_LOAD and start <= address < start + size:
                return data[offset + address - start : offset + size]
    return b""


def _text(strings: bytes, position: int) -> str:
    return strings[position : strings.index(b"\0", position)].decode("utf-8", "surrogateescape")


def _origin(folder: str, path: Path) -> str:
    origin = str(path.resolve().parent)
    return folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
