"""Reading an initramfs image: a sequence of cpio archives, compressed or not, in a file of its own
or in a unified kernel image.

The format is the kernel's, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.image import unified

_NEWC = (b"070701", b"070702")
_HEADER = 110
_LAST = "TRAILER!!!"
_REBUILD = "run 'ephemeroot apply'"

# By the first bytes: the decompressor, which is installed where the image was compressed.
_PROGRAMS = (
    (b"\x1f\x8b", ("gzip", "-dc")),
    (b"\x28\xb5\x2f\xfd", ("zstd", "-dc")),
    (b"\xfd7zXZ\x00", ("xz", "-dc")),
    (b"\x5d\x00\x00", ("xz", "-dc", "--format=lzma")),
    (b"BZh", ("bzip2", "-dc")),
    (b"\x02\x21\x4c\x18", ("lz4", "-dc")),
    (b"\x04\x22\x4d\x18", ("lz4", "-dc")),
    (b"\x89LZO", ("lzop", "-dc")),
)


class Archive:
    """The content of an image. ``names`` are all names without leading slash, ``files`` the
    content of the wanted files, ``links`` the targets of symlinks.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}


def read(path: Path, wanted: Callable[[str], bool]) -> Archive:
    """Read the image *path*, keeping the content of files whose name is *wanted*.

    Raises ``Damaged`` if it is not a readable image, and ``OSError``.
    """
    archive = Archive()
    data = path.read_bytes()
    if unified.is_unified(data):
        data = _unpacked(data, path)
    position, end = 0, len(data)
    while position < end:
        # Archives start at multiples of four; zeros between them are skipped.
        if data[position] == 0:
            position += 1
        elif data[position : position + 6] in _NEWC:
            position = _members(data, position, archive, wanted, path)
        else:
            rest = decompress(data[position:], path)
            _members(rest, 0, archive, wanted, path)
            break
    if not archive.names:
        raise Damaged(f"{path} is not an initramfs image that can be read", _REBUILD)
    return archive


def _unpacked(data: bytes, path: Path) -> bytes:
    try:
        return unified.initramfs(data)
    except Damaged as error:
        raise Damaged(f"{path}: {error.message}") from None


def _members(
    data: bytes, position: int, archive: Archive, wanted: Callable[[str], bool], path: Path
) -> int:
    """Read one archive; return its end."""
    shared: dict[tuple[int, ...], list[str]] = {}
    while True:
        header = data[position : position + _HEADER]
        if header[:6] not in _NEWC or len(header) < _HEADER:
            raise Damaged(f"{path} is damaged: no archive member at byte {position}", _REBUILD)
        fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        mode, links, size, length = fields[1], fields[4], fields[6], fields[11]
        start = position + _HEADER
        name = os.fsdecode(data[start : start + length - 1])
        body = _aligned(start + length)
        position = _aligned(body + size)
        if name == _LAST:
            return position
        name = name.removeprefix("./")
        archive.names.add(name)
        content = data[body : body + size]
        if stat.S_ISLNK(mode):
            archive.links[name] = os.fsdecode(content)
        elif stat.S_ISREG(mode):
            same = [name]
            if links > 1:
                # Of hard links, only the last one has the content.
                same = shared.setdefault((fields[0], *fields[7:9]), [])
                same.append(name)
            for each in same:
                if wanted(each) and (size or each not in archive.files):
                    archive.files[each] = content


def _aligned(position: int) -> int:
    return (position + 3) & ~3


def is_compressed(data: bytes) -> bool:
    """Whether *data* starts like a known compressed format."""
    return data.startswith(tuple(magic for magic, _ in _PROGRAMS))


def decompress(data: bytes, path: Path) -> bytes:
    """The decompressed *data* of the file *path*.

    Raises ``Damaged`` if it cannot be decompressed, and ``EphemerootError`` if the decompressor is
    missing.
    """
    import subprocess  # imported here: `check` and `status` often read no image

    for magic, command in _PROGRAMS:
        if data.startswith(magic):
            try:
                done = subprocess.run(command, input=data, capture_output=True, check=False)
            except FileNotFoundError:
                raise EphemerootError(
                    f"cannot read back {path}: the program {command[0]} is not installed",
                    f"install the package that contains {command[0]}",
                ) from None
            # Padding after the compressed part makes some programs fail.
            if done.stdout:
                return done.stdout
            said = done.stderr.decode(errors="replace").strip()
            raise Damaged(f"cannot decompress {path}: {said}", _REBUILD)
    raise Damaged(f"{path} is not compressed in a known way, and is not an initramfs image")
