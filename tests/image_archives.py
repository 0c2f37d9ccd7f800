"""Writing initramfs images for tests (newc, see the kernel's buffer-format.rst)."""

from __future__ import annotations

import stat
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
    """Everything below the folder *top*."""
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
