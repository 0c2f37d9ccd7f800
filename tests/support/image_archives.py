"""Writing initramfs images for tests (newc, see the kernel's buffer-format.rst)."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

Member = tuple[int, bytes]


def archive(members: dict[str, Member]) -> bytes:
    """A cpio archive of ``{name: (mode, content)}``; a symlink's content is its target."""
    out = bytearray()
    for number, (name, (mode, content)) in enumerate([*members.items(), ("TRAILER!!!", (0, b""))]):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        out += _padded(b"070701" + b"".join(b"%08x" % f for f in fields) + encoded)
        out += _padded(content)
    return bytes(out)


def of_tree(top: Path) -> dict[str, Member]:
    """An archive of everything below the folder *top*."""
    members: dict[str, Member] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            members[name] = (stat.S_IFLNK | 0o777, str(path.readlink()).encode())
        elif path.is_dir():
            members[name] = (stat.S_IFDIR | 0o755, b"")
        else:
            members[name] = (path.stat().st_mode, path.read_bytes())
    return members


def file(content: bytes) -> Member:
    return stat.S_IFREG | 0o644, content


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def unified(initramfs: bytes, *, signed: bool = False) -> bytes:
    """A program for UEFI with a kernel and that initramfs: the PE headers that matter, in PE32+."""
    sections = [(b".linux", b"a kernel"), (b".initrd", initramfs)]
    directories = struct.pack("<II", 0, 0) * 4 + struct.pack("<II", 4096, 8 if signed else 0)
    optional = struct.pack("<H", 0x20B).ljust(108, b"\0") + struct.pack("<I", 5) + directories
    coff = struct.pack("<4sHHIIIHH", b"PE", 0x8664, len(sections), 0, 0, 0, len(optional), 0)
    start = 0x40 + len(coff) + len(optional) + 40 * len(sections)
    table = body = b""
    for name, content in sections:
        # In the file, sections have whole blocks; in memory, their real size.
        stored = -(-len(content) // 512) * 512
        place = start + len(body)
        table += struct.pack("<8sIIII16x", name, len(content), 0, stored, place)
        body += content.ljust(stored, b"\0")
    return b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + coff + optional + table + body
