"""Disks with one filesystem and files in it, made without the kernel's support for its type."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vm import layer
from vm.cache import Cache, digest
from vm.command import run
from vm.disk import Disk
from vm.layer import Content
from vm.loop import attached, mounted
from vm.system import System
from vm.tools import Tools


@dataclass(frozen=True)
class Ext4Files:
    """An ext4 over the whole disk with those files. `tuned` are arguments for tune2fs(8)."""

    label: str
    files: Mapping[str, Content] = field(default_factory=dict)
    size: str = "64M"
    tuned: tuple[str, ...] = ()

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`."""
        tools.run("mkfs.ext4", "-q", "-F", "-L", self.label, image)
        with mounted(image, "ext4", "rw") as top:
            for name, content in self.files.items():
                layer.write(top, name, content)
        if self.tuned:
            tools.run("tune2fs", *self.tuned, image)


@dataclass(frozen=True)
class XfsFiles:
    """An xfs over the whole disk with those files; the system has its programs."""

    uuid: str
    files: Mapping[str, Content] = field(default_factory=dict)
    size: str = "384M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`. A prototype (mkfs.xfs(8)) cannot have names with spaces."""
        files = {f"srv/content/{name}": content for name, content in self.files.items()}
        prototype = "boot\n0 0\nd--755 0 0\n" + _prototype(self.files, PurePosixPath()) + "$\n$\n"
        given = system.on_top(layer.make(cache, files={**files, "srv/prototype": prototype}))
        with attached(image) as device:
            words = ("-q", "-f", "-m", f"uuid={self.uuid}", "-p", "/srv/prototype")
            given.run(cache, "mkfs.xfs", *words, device)


def _prototype(files: Mapping[str, Content], folder: PurePosixPath) -> str:
    lines = []
    below = {PurePosixPath(name) for name in files if folder in PurePosixPath(name).parents}
    for name in sorted({path.relative_to(folder).parts[0] for path in below}):
        path = folder / name
        if path in below:
            mode = layer.file(files[str(path)]).mode
            lines.append(f"{name} ---{mode:03o} 0 0 /srv/content/{path}\n")
        else:
            lines.append(f"{name} d--755 0 0\n{_prototype(files, path)}$\n")
    return "".join(lines)


def btrfs_on_two(
    cache: Cache, tools: Tools, label: str, size: str, files: Mapping[str, Content]
) -> tuple[Disk, Disk]:
    """One btrfs over two disks with those files, from the cache. Do not use them directly: `copy`
    them.
    """

    def build(folder: Path) -> None:
        images = [folder / "0.raw", folder / "1.raw"]
        run(["truncate", "--size", size, *images])
        with ExitStack() as stack:
            devices = [stack.enter_context(attached(image)) for image in images]
            tools.run("mkfs.btrfs", "--quiet", "--label", label, *devices)
            run(["btrfs", "device", "scan", *devices])
            with mounted(images[0], "btrfs", f"device={devices[1]}") as top:
                for name, content in files.items():
                    layer.write(top, name, content)

    key = digest(Path(__file__), label, size, sorted((n, repr(f)) for n, f in files.items()))
    entry = cache.entry("disk", key, build, keep=32)
    return Disk(entry / "0.raw"), Disk(entry / "1.raw")
