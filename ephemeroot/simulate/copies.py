"""Faults that every new root inherits from its base: jobs for one boot, empty directories instead
of subvolumes, swap files, and missing modules that were built later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ephemeroot import backends
from ephemeroot.base import boot_filesystems, boot_kernels, boot_places, inspection
from ephemeroot.base.boot_kernels import Area, Kernel
from ephemeroot.base.inspection import Fault
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import paths
from ephemeroot.machine import fstab
from ephemeroot.machine.units import text_of
from ephemeroot.simulate.findings import ERROR, Finding

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def inspect(live: Path, fresh: Path, plan: Plan) -> list[Finding]:
    """The faults in the simulated root *fresh* that every new root has, compared with the present
    root *live*. Raises ``OSError``.
    """
    here, there = os.open(live, _DIRECTORY), os.open(fresh, _DIRECTORY)
    try:
        kept = _kept(there, plan)
        faults = [
            *inspection.markers(there, kept),
            *inspection.swap_files(there, kept),
            *_emptied(_omitted(here, plan), fresh, kept),
            *inspection.built_modules(here, there),
        ]
    finally:
        os.close(here)
        os.close(there)
    return [Finding(ERROR, one.text, one.hint) for one in faults]


def boot_kernels_of(live: Path) -> Iterator[Kernel]:
    """The kernels on mounted filesystems that the boot loader of the machine at *live* can start.
    Raises ``OSError``.
    """
    points = set(boot_places.USUAL)
    if live == Path("/"):
        points |= {one.point for one in boot_filesystems.find(to_save=False)}
    found = {point: live / point.lstrip("/") for point in sorted(points)}
    areas = [Area(point, path) for point, path in found.items() if path.is_dir()]
    seen: set[str] = set()
    for kernel in boot_kernels.find(areas):
        if kernel.shown not in seen:
            seen.add(kernel.shown)
            yield kernel


def _omitted(live: int, plan: Plan) -> list[str]:
    wipe = plan.root_wipe()
    return backends.of(wipe.load()).omitted(live) if wipe is not None else []


def _emptied(omitted: list[str], fresh: Path, kept: frozenset[str]) -> Iterator[Fault]:
    """Faults for the *omitted* places of the present root that are empty in *fresh*."""
    for fault in inspection.nested(omitted, kept):
        place = fresh / fault.path.lstrip("/")
        if not place.is_dir() or not paths.names(place):
            yield fault


def _kept(root: int, plan: Plan) -> frozenset[str]:
    """Paths that a new root does not take from the base: declared paths and mount points."""
    found = set(plan.declared()) | {volume.mount_point for volume in plan.volumes()}
    found |= {line.mount_point for line in fstab.parse(text_of(root, "/etc/fstab"))}
    return frozenset(found - {"/"})
