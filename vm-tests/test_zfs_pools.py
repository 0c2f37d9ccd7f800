"""The ZFS wiper on real pools: each case of zfs_pools/ is a test, and they share a machine."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import agreement
import complete_boot
import loop_device
import machine_tree
import mounting
import proof
from vm import disk as disks
from vm import project
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.machine import Machine
from vm.qemu import Hardware
from vm.system import System
from vm.zpool import zfs_initrd
from zfs_pools.pool import PROOF

CASES = Path(__file__).with_name("zfs_pools")
SUPPORT = (agreement, complete_boot, loop_device, machine_tree, mounting, proof)
MODULES = (
    "rollback", "rotation", "old_roots", "power_cuts", "hints", "pool_states", "recipes",
    "agreement",
)  # fmt: skip
LIMIT = 3600.0  # seconds for a case in `make proof`; one of CI takes a few


def cases() -> Iterator[object]:
    """The modules are imported here as well: they name their requirements of a pool, but
    use none.
    """
    for module in MODULES:
        for name, case in vars(importlib.import_module(f"zfs_pools.{module}")).items():
            if name.startswith("case_"):
                marks = [pytest.mark.proof] if case in PROOF else []
                short = name.removeprefix("case_")
                yield pytest.param(module, short, id=f"{module}-{short}", marks=marks)


@pytest.fixture(scope="module")
def machine(
    lasting_bench: Bench, cache: Cache, zfs_debian: System, wheel: Path
) -> Iterator[Machine]:
    """Runs until the last case has ended, with the cases in it."""
    ready = project.installed(cache, zfs_debian, wheel, {})
    prepared = disks.prepared(cache, disks.Btrfs(), lasting_bench.tools, ready)
    with cache.scratch("zfs-pools") as scratch:
        disk = prepared.copy(scratch / "disk.raw")
        boot = Boot(ready, zfs_initrd(cache, zfs_debian), (disk,), hardware=Hardware(memory=2048))
        machine = lasting_bench.up(boot, "zfs-pools")
        machine.run("mkdir /run/zfs_pools; modprobe --all zfs loop ext4 overlay", timeout=60)
        for file in CASES.glob("*.py"):
            machine.write(f"/run/zfs_pools/{file.name}", file.read_bytes())
        for module in SUPPORT:
            file = Path(inspect.getfile(module))
            machine.write(f"/run/{file.name}", file.read_bytes())
        yield machine


@pytest.mark.parametrize(("module", "case"), list(cases()))
def test_on_a_real_pool(machine: Machine, module: str, case: str) -> None:
    """Only a boot shows ZFS: this host's kernel has no module for it."""
    whole = f"EPHEMEROOT_PROOF={os.environ.get('EPHEMEROOT_PROOF', '')}"
    machine.run(f"cd /run && {whole} python3 -m zfs_pools {module} {case}", timeout=LIMIT)
