"""A repository of packages that has a newer kernel for an installed machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vm import layer, packages
from vm.bench import Bench
from vm.boot_partition import DRIVERS, kernel_package
from vm.cache import Cache
from vm.command import run
from vm.disk import Disk
from vm.installer import Installation
from vm.layer import Content, File
from vm.system import System

_REPOSITORY = "srv/repository"


@dataclass(frozen=True)
class Upgrade:
    """A newer kernel in a repository of packages: its release, and the files of the system that has
    the repository.
    """

    release: str
    files: Mapping[str, Content]

    def offer(self, kind: Installation, bench: Bench, disk: Disk) -> None:
        """Write the repository into the machine of that *kind* on *disk*, which is off: into its
        root, and into the base if there is one.
        """
        start = kind.start(bench.tools, disk)
        with disk.mounted(kind.filesystem, kind.top_options, start) as top:
            roots = [top / kind.subvolume]
            if kind.subvolume:
                roots += top.glob(f"{kind.subvolume}-base")
            for root in roots:
                for name, content in self.files.items():
                    layer.write(root, name, content)


def of(cache: Cache, system: System) -> Upgrade:
    """A newer kernel than the *system*'s, with the drivers for this machine, and the package by
    which an upgrade installs it.
    """
    more = ("kernel/fs/fat/", "kernel/fs/nls/", "kernel/fs/efivarfs/")
    deb = kernel_package(cache, system, (*DRIVERS, *more), newer=True)
    name = run(["dpkg-deb", "--field", deb, "Package"]).strip()
    version = run(["dpkg-deb", "--field", deb, "Version"]).strip()
    newest = packages.depending(cache, "linux-image-cloud-amd64", version, name)
    held = packages.repository([deb, newest])
    files: dict[str, Content] = {
        "etc/apt/sources.list": f"deb [trusted=yes] file:/{_REPOSITORY} ./\n",
        **{f"{_REPOSITORY}/{file}": File(data) for file, data in held.items()},
    }
    return Upgrade(name.removeprefix("linux-image-"), files)
