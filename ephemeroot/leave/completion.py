"""The first boot after leaving: copy the last changes in the stores into the root."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.config import sources
from ephemeroot.errors import Damaged, EphemerootError, Refused
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks import tree
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.records import MARKER
from ephemeroot.leave import returning
from ephemeroot.leave.leaving import (
    FAILED,
    FORMAT,
    RECORD,
    VERSION,
    Leaving,
    inside,
    open_stores,
    reason,
)
from ephemeroot.leave.returning import Bound
from ephemeroot.linux import bounds, devices, documents, kernel, mounts, subvolume, udev, workshop
from ephemeroot.linux.bounds import Budget, OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.workshop import Workshop
from ephemeroot.mirror.tree import Mirror, open_directory
from ephemeroot.plan import applied


@dataclass(slots=True)
class Finish:
    """Completes ``ephemeroot leave`` from its record in the root at ``root``.

    ``private`` is an empty directory for private mounts. ``kept`` lists paths that have changed in
    the root since then and are not overwritten, ``problems`` paths that could not be copied: a path
    that fails, or exceeds the bounds, does not stop the others.
    """

    root: Path
    private: Path
    kept: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changed: int = 0

    def run(self, log: Callable[[str], None]) -> bool:
        """Copy files that are newer in the stores into the root; return whether there was a record.

        An error that concerns all paths is raised and not retried: the next boot would copy
        outdated files. An interrupted run keeps the record, and the next run completes it; later
        changes in the root are kept.
        """
        record = read(self.root)
        if record is None:
            return False
        plan, since = record
        booted = applied.booted() if self.root == Path("/") else None
        if booted is not None and booted.declared():
            raise Refused(
                "cannot complete 'ephemeroot leave': this boot has bound the declared paths, so "
                "another image has booted",
                "run 'ephemeroot leave' again",
            )
        try:
            self._copy_all(plan, since, log)
        except Exception:
            os.rename(self.root / RECORD, self.root / FAILED)
            raise
        if self.problems:
            os.rename(self.root / RECORD, self.root / FAILED)
        else:
            (self.root / RECORD).unlink()
        applied.path(self.root).unlink(missing_ok=True)
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel.sync_filesystem(root)
        finally:
            os.close(root)
        return True

    def _copy_all(self, plan: Plan, since: int, log: Callable[[str], None]) -> None:
        leaving = Leaving(self.root, plan)
        with_places = _find_stores(self.root, plan, self.private)
        opened = open_stores(self.root, plan, with_places)
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            budget = Budget(bounds.unattended_in_all())
            groups = leaving.grouped(opened)
            for number, group in enumerate(groups):
                # Root's own paths may use all of it; each user has an equal share of the rest.
                share = Budget(budget.share(len(groups) - number if number else 1))
                for item in group:
                    copier = Copier(share.within(bounds.unattended()))
                    mirror = Mirror(excluded=leaving.below(item), since=since, copier=copier)
                    try:
                        self._copy(mirror, item.operation, opened[item.operation.store], root)
                    except (OSError, OutOfBounds, EphemerootError) as error:
                        self.problems.append(f"{item.path}: {reason(error)}")
                    self._note(item.path, mirror, log)
                    for meter in (copier.meter, mirror.meter):
                        share.spend(meter)
                        budget.spend(meter)
            returning.remove(root, sources.PLAN.lstrip("/"))
        finally:
            for fd in (root, *opened.values()):
                os.close(fd)

    def _copy(self, mirror: Mirror, operation: Bound, store: int, root: int) -> None:
        if isinstance(operation, Overlay):
            _merge(mirror, operation, store, root, self.private)
        elif not _is_link(operation):
            returning.copy(mirror, operation, store, root, operation.path)

    def _note(self, path: str, mirror: Mirror, log: Callable[[str], None]) -> None:
        count = len(mirror.changed) + len(mirror.removed)
        self.changed += count
        self.kept += [inside(path, kept) for kept in mirror.kept]
        self.problems += [f"{inside(path, name)}: {why}" for name, why in mirror.skipped]
        if count:
            log(f"{path}: {count} change{'' if count == 1 else 's'} copied into the root")
        if mirror.flattened:
            log(subvolume.flattened(mirror.flattened, path))


def read(root: Path) -> tuple[Plan, int] | None:
    """The plan that ``leave`` has disarmed, and the time of its copy into the root (nanoseconds);
    ``None`` if the root at *root* has no such record. Raises ``Damaged``.
    """
    path = root / RECORD
    try:
        content = documents.parse(documents.read(str(path)))
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise Damaged(
                f"{path} is not a supported record of 'ephemeroot leave'",
                "compare the stores with the root by hand",
            )
        return plans.parse(content["plan"].encode("ascii"), str(path)), int(content["since"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise Damaged(
            f"{path} is damaged: {error}", "compare the stores with the root by hand"
        ) from None


def _is_link(operation: Operation) -> bool:
    """Whether the root had a link into the store. ``leave`` replaced it with a copy, and programs
    have used that copy since.
    """
    return getattr(operation, "method", "") == "symlink"


def _find_stores(root: Path, plan: Plan, private: Path) -> dict[str, Path]:
    """Where each store is mounted; a store that is not mounted is mounted under *private*."""
    found: dict[str, Path] = {}
    volumes = {volume.name: volume for volume in plan.volumes()}
    for store in plan.stores():
        place = root / store.path.lstrip("/")
        if (place / MARKER).exists():
            continue
        volume = volumes[store.volume]
        point = private / volume.name
        if not os.path.ismount(point):
            point.mkdir(parents=True, exist_ok=True)
            mount = mounts.create(volume.type, _device(volume), volume.options)
            # Read-only: changes are only copied from the store to the root.
            mounts.set_flags(mount, set_=mounts.MOUNT_ATTR_RDONLY, private=True, name=str(point))
            mounts.attach_at(mount, str(point))
        found[store.path] = point / store.below
    return found


def _device(volume: MountVolume) -> str:
    """The device's path; waits for the device, which may appear late in the boot."""
    try:
        path = devices.link(volume.device)
    except ValueError:
        return volume.device  # a dataset or a network share
    if not os.path.exists(path):
        udev.wait_for(path, volume.timeout)
    return path


def _merge(mirror: Mirror, operation: Overlay, store: int, root: int, private: Path) -> None:
    """Mount the overlay privately, and make the root's directory like it."""
    place = tree.resolve(root, operation.path)
    if not tree.is_directory(store, operation.source):
        return
    parent, name = tree.open_parent(root, place)
    try:
        workshop.sweep(parent)
        lower = open_directory(parent, name)
        try:
            merged = _merged(operation, store, lower, private)
            try:
                with Workshop(parent) as shop:
                    mirror.copy(merged, ".", shop, "")
                    mounts.detach(str(private / "merged"))
                    mirror.arrive(shop, name, "", os.fstat(lower))
            finally:
                os.close(merged)
        finally:
            os.close(lower)
    finally:
        os.close(parent)


def _merged(operation: Overlay, store: int, lower: int, private: Path) -> int:
    upper = open_directory(store, operation.source)
    try:
        options = ["lowerdir=" + mounts.fd_path(upper) + ":" + mounts.fd_path(lower), "ro"]
        mount = mounts.create("overlay", "overlay", options)
    finally:
        os.close(upper)
    point = private / "merged"
    point.mkdir(parents=True, exist_ok=True)
    mounts.attach_at(mount, str(point))
    return os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
