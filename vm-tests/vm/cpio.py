"""cpio archives in the kernel's newc format, to lay changed files over an initramfs without
rebuilding it.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import PurePosixPath

from vm.layer import Content, file

_TRAILER = "TRAILER!!!"


class Link(str):
    """The target of a symbolic link, as content of a name in an archive."""


def archive(members: Mapping[str, Content | Link]) -> bytes:
    """A newc archive of files and links; missing parent folders are added as root's 0755.

    Unpacked after another archive (kernel:
    Documentation/driver-api/early-userspace/buffer-format.rst) its files replace the ones of the
    same name. Names must be real ones: a parent that is a link in the earlier archive (`bin`) would
    be replaced by a folder.
    """
    out = bytearray()
    folders: set[str] = set()
    inode = 1
    for name, content in sorted(members.items()):
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            if str(parent) not in folders:
                folders.add(str(parent))
                out += _entry(inode, str(parent), stat.S_IFDIR | 0o755, b"")
                inode += 1
        if isinstance(content, Link):
            out += _entry(inode, name, stat.S_IFLNK | 0o777, content.encode())
        else:
            one = file(content)
            out += _entry(inode, name, stat.S_IFREG | one.mode, one.content, one.uid, one.gid)
        inode += 1
    out += _entry(0, _TRAILER, 0, b"")
    return bytes(out)


def _entry(inode: int, name: str, mode: int, data: bytes, uid: int = 0, gid: int = 0) -> bytes:
    encoded = name.encode(errors="surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # magic, then 13 numbers: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
    # rdevminor namesize check
    numbers = (inode, mode, uid, gid, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
