"""Disks for machines: described as data, made once, copied cheaply."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vm import layer
from vm.cache import Cache, digest
from vm.command import run
from vm.layer import Content
from vm.loop import attached, mounted
from vm.system import System
from vm.tools import Tools

_ROOT_FSTAB = "/dev/vda / btrfs subvol=root 0 0\n"


class Layout(Protocol):
    """A way to fill a disk. Layouts are dataclasses, so that `repr` has all their inputs."""

    @property
    def size(self) -> str:
        """The size of the whole disk, in the format of truncate(1)."""

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """Write the disk into the raw image, which already has its size."""


@dataclass(frozen=True)
class Subvolume:
    """A btrfs subvolume at `path`, as seen from the top level.

    It is empty, or has the system's tree, or is a snapshot of an earlier one; `files` are written
    into it last, named relative to it.
    """

    path: str
    tree: bool = False
    snapshot_of: str | None = None
    read_only: bool = False
    files: Mapping[str, Content] = field(default_factory=dict)


@dataclass(frozen=True)
class Btrfs:
    """One btrfs over the whole disk.

    By default: the system in `root-base`, a snapshot of it as `root`, an empty store, no old root.
    """

    subvolumes: tuple[Subvolume, ...] = (
        Subvolume("root-base", tree=True, files={"etc/fstab": _ROOT_FSTAB}),
        Subvolume("root", snapshot_of="root-base"),
        Subvolume("persistent"),
        Subvolume("old_roots"),
    )
    size: str = "2G"
    label: str = "vm"
    uuid: str | None = None

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        with attached(image) as device:
            identity = ["--uuid", self.uuid] if self.uuid else []
            tools.run("mkfs.btrfs", "--quiet", "--label", self.label, *identity, device)
        with mounted(image) as top:
            for one in self.subvolumes:
                path = top / one.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if one.snapshot_of is not None:
                    tools.run("btrfs", "subvolume", "snapshot", top / one.snapshot_of, path)
                else:
                    tools.run("btrfs", "subvolume", "create", path)
                if one.tree:
                    system.copy_to(cache, path)
                for name, content in one.files.items():
                    layer.write(path, name, content)
                if one.read_only:
                    tools.run("btrfs", "property", "set", "-ts", path, "ro", "true")


@dataclass(frozen=True)
class Swap:
    """A disk that is one swap area, for hibernation (`resume=/dev/vdb`)."""

    size: str = "1G"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        tools.run("mkswap", image)


@dataclass(frozen=True)
class Empty:
    """A disk of zeros."""

    size: str = "1G"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""


class Disk:
    """A raw disk image of one test, which machines boot from and tests look into between boots."""

    def __init__(self, image: Path) -> None:
        self.image = image

    def mounted(
        self, kind: str = "btrfs", options: str = "subvolid=5", offset: int = 0
    ) -> AbstractContextManager[Path]:
        """`with disk.mounted() as top:` mounts the filesystem on this host, for inspection or
        changes.

        It begins `offset` bytes into the disk. No machine may be using it.
        """
        return mounted(self.image, kind, options, offset)

    def copy(self, image: Path) -> Disk:
        """The same disk in another file; holes stay holes."""
        run(["cp", "--reflink=auto", "--sparse=auto", self.image, image])
        return Disk(image)


def copy_extents(source: Path, target: Path, start: int = 0) -> None:
    """Write all extents that were ever written to `source` into `target`, `start` bytes after its
    begin.

    Zeros among them are written, too: the target's unwritten blocks may have other content.
    """
    with source.open("rb") as inner, target.open("r+b") as outer:
        end = 0
        while (begin := _data_after(inner.fileno(), end)) is not None:
            end = os.lseek(inner.fileno(), begin, os.SEEK_HOLE)
            outer.seek(start + begin)
            inner.seek(begin)
            left = end - begin
            while left:
                chunk = inner.read(min(left, 1 << 20))
                outer.write(chunk)
                left -= len(chunk)


def _data_after(fd: int, place: int) -> int | None:
    try:
        return os.lseek(fd, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def prepared(cache: Cache, layout: Layout, tools: Tools, system: System) -> Disk:
    """The disk of that layout with that system, from the cache. Do not use it directly:
    `copy` it.
    """

    def build(folder: Path) -> None:
        image = folder / "disk.raw"
        run(["truncate", "--size", layout.size, image])
        layout.fill(image, cache, tools, system)

    key = digest(Path(__file__), repr(layout), system.key)
    return Disk(cache.entry("disk", key, build, keep=32) / "disk.raw")
