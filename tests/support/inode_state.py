"""The properties of an inode other than extended attributes, of every kind: set, and read back with
the system calls of lsattr(1). A copy is correct if it has the same.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ephemeroot.linux import extents, inode_flags, subvolume

Maker = Callable[[Path], None]


def _chattr(words: str) -> Maker:
    def make(path: Path) -> None:
        subprocess.run(["chattr", *words.split(), path], check=True)

    return make


def _property(value: str) -> Maker:
    def make(path: Path) -> None:
        subprocess.run(["btrfs", "property", "set", path, "compression", value], check=True)

    return make


def _reserve(offset: int, length: int) -> Maker:
    def make(path: Path) -> None:
        if path.is_file():
            words = ["fallocate", "--keep-size", "-o", str(offset), "-l", str(length)]
            subprocess.run([*words, path], check=True)

    return make


EVERYWHERE: dict[str, Maker] = {
    "plain": lambda path: None,
    "immutable": _chattr("+i"),
    "append": _chattr("+a"),
    "both": _chattr("+ai"),
    "nodump": _chattr("+d"),
    "noatime": _chattr("+A"),
    "sync": _chattr("+S"),
    "reserved-after": _reserve(1 << 20, 1 << 17),
    "reserved-hole": _reserve(1 << 16, 1 << 17),
}
BTRFS: dict[str, Maker] = EVERYWHERE | {
    "nocow": _chattr("+C"),
    "compressed": _chattr("+c"),
    "zstd": _property("zstd"),
    "uncompressed": _property("none"),
    "nocow-immutable": lambda path: (_chattr("+C")(path), _chattr("+i")(path))[0],
}
PROJECTS: dict[str, Maker] = EVERYWHERE | {
    "project": _chattr("-p 7"),
    "project-immutable": lambda path: (_chattr("-p 8")(path), _chattr("+i")(path))[0],
    "project-inherited": lambda path: (
        _chattr("-p 9")(path), path.is_dir() and _chattr("+P")(path),
    )[0],
}  # fmt: skip


def furnish(top: Path, cases: dict[str, Maker], *, subvolumes: bool = False) -> None:
    """Fill the directory *top* with a file, a file with two names and a directory of each kind."""
    for name, make in cases.items():
        file = top / f"file-{name}"
        file.touch()
        if "nocow" in name:
            make(file)
            subprocess.run(["chattr", "-i", file], check=True)
        file.write_bytes(b"content" * 2000)
        os.truncate(file, 1 << 19)
        twice = top / f"twice-{name}"
        twice.write_bytes(b"content")
        twice.with_name(f"{twice.name}-again").hardlink_to(twice)
        directory = top / f"directory-{name}"
        directory.mkdir()
        if "nocow" in name:
            make(directory)
            subprocess.run(["chattr", "-i", directory], check=True)
        (directory / "inside").write_bytes(b"content")
        (directory / "deeper").mkdir()
        for path in (file, directory):
            make(path)
        if "nocow" not in name:
            make(twice)
    if subvolumes:
        for name in ("subvolume", "subvolume/nested", "read-only", "read-only/nested"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", top / name], check=True)
            (top / name / "inside").write_bytes(b"content")
        subprocess.run(["chattr", "+i", top / "read-only/inside"], check=True)
        for name in ("read-only/nested", "read-only"):
            subprocess.run(["btrfs", "property", "set", top / name, "ro", "true"], check=True)


def state(path: Path) -> tuple[object, ...]:
    """The properties that a copy must have: flags, project, compression, preallocated bytes,
    subvolume.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        flags = inode_flags.flags(fd) or 0
        try:
            reserved = sum(length for _, length in extents.unwritten(fd))
        except OSError:
            reserved = 0
        content = path.read_bytes() if path.is_file() else b""
        # Blocks that were read are data (SEEK_DATA of ext4) while they are in memory.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return (
            hex(flags & (inode_flags.FIRST | inode_flags.LAST)),
            inode_flags.project(fd),
            "btrfs.compression" in os.listxattr(fd) and os.getxattr(fd, "btrfs.compression"),
            reserved if path.is_file() else 0,
            subvolume.is_one(fd),
            subvolume.is_read_only(fd),
            path.stat().st_nlink if path.is_file() else 0,
            content,
        )
    finally:
        os.close(fd)


def picture(top: Path) -> dict[str, tuple[object, ...]]:
    """The properties of all entries of *top*. A file is preallocated while it is being written."""
    subprocess.run(["sync", "-f", top], check=True)
    return {str(path.relative_to(top)): state(path) for path in sorted(top.rglob("*"))}


def unlock(top: Path) -> None:
    """Make it possible to remove all entries of *top*."""
    for path in [top, *top.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            fd = os.open(path, os.O_RDONLY)
            if subvolume.is_read_only(fd):
                subvolume.set_read_only(fd, False)
            os.close(fd)
    subprocess.run(["chattr", "-R", "-f", "-ai", top], check=False)
