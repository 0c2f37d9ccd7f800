"""Disks that only a machine can make: not every host's kernel has device mapper, MD and ZFS.

A machine is booted once with blank disks and a script; the resulting disks are kept in the cache,
under a key of all inputs. One boot makes the disks of several tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vm.bench import Bench, Boot
from vm.cache import digest
from vm.command import run
from vm.disk import Btrfs, Disk, prepared
from vm.qemu import Hardware
from vm.system import System

FILES = "/run/builder"
"""Where the script finds the recipe's files."""


@dataclass(frozen=True)
class Recipe:
    """The inputs: `disks` maps a name to a size in the format of truncate(1).

    `script` runs as root under `sh -eux`, with a variable for each disk and each source whose value
    is its device (`$name`), and with `files` below `FILES`.
    """

    disks: Mapping[str, str]
    script: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    timeout: float = 900


def built(
    bench: Bench,
    system: System,
    initrd: Path,
    recipe: Recipe,
    sources: Mapping[str, Disk] | None = None,
) -> dict[str, Disk]:
    """The recipe's disks by name, from the cache. Do not use them directly: `copy` them.

    `sources` are prepared disks (`vm.disk.prepared`) that the script copies from; it gets copies.
    """
    given = dict(sources or {})
    key = digest(
        Path(__file__), system.key, repr(recipe), [(n, str(d.image)) for n, d in given.items()]
    )

    def build(folder: Path) -> None:
        made = {name: Disk(folder / f"{name}.raw") for name in recipe.disks}
        for name, size in recipe.disks.items():
            run(["truncate", "--size", size, made[name].image])
        with bench.cache.scratch("builder") as scratch:
            own = prepared(bench.cache, Btrfs(), bench.tools, system).copy(scratch / "root.raw")
            copies = {n: d.copy(scratch / f"{n}.raw") for n, d in given.items()}
            _make(bench, Boot(system, initrd, (own,)), recipe, {**made, **copies})

    entry = bench.cache.entry("built", key, build, keep=6)
    return {name: Disk(entry / f"{name}.raw") for name in recipe.disks}


def _make(bench: Bench, boot: Boot, recipe: Recipe, disks: Mapping[str, Disk]) -> None:
    hardware = Hardware(memory=boot.hardware.memory)
    boot = Boot(boot.system, boot.initrd, (*boot.disks, *disks.values()), hardware=hardware)
    machine = bench.up(boot, "builder")
    try:
        machine.run(f"mkdir -p {FILES}")
        for name, content in recipe.files.items():
            machine.write(f"{FILES}/{name}", content)
        # vda is the disk of the machine itself.
        names = [f"{name}=/dev/vd{chr(ord('b') + n)}" for n, name in enumerate(disks)]
        machine.write(f"{FILES}/script", "\n".join([*names, recipe.script, ""]))
        machine.run(f"sh -eux {FILES}/script", timeout=recipe.timeout)
        machine.run("sync")
        machine.poweroff()
    finally:
        machine.close()
