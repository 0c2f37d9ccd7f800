"""``ephemeroot leave``: copy the declared paths into the root, and disarm all images.

The order makes a power cut safe. First everything is copied into the root under the binds while the
machine is still armed: a power cut then boots a new root, and all data is in the stores. Then the
root gets a record (``RECORD``), and the stores get an empty plan of a newer generation: no older
image wipes or binds after that, even if an image is not rebuilt. The first boot (``completion``)
copies changes that programs have made in the stores meanwhile, before anything reads the files. It
never overwrites later changes in the root.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.config import sources
from ephemeroot.errors import EphemerootError, Refused, StoreMissing
from ephemeroot.hooks import records
from ephemeroot.hooks.operations.linkable import Linkable
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.leave import returning
from ephemeroot.leave.returning import Bound
from ephemeroot.linux import bounds, kernel, mountinfo, paths, subvolume
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.mirror.tree import Mirror
from ephemeroot.plan import applied, stores
from ephemeroot.step import Step

RECORD = ".ephemeroot/leaving.json"
"""In the root, between the copy and the first boot that completes it."""

FAILED = ".ephemeroot/leaving-failed.json"

FORMAT = "ephemeroot-leaving"
VERSION = 1


class Item(Step):
    """The copy of one declared path from the store into the root."""

    __slots__ = ("leaving", "operation")

    def __init__(self, leaving: Leaving, operation: Bound) -> None:
        self.leaving = leaving
        self.operation = operation

    @property
    def path(self) -> str:
        """The declared path."""
        return self.operation.path

    def describe(self) -> str:
        where = f"{self.operation.store.rstrip('/')}/{self.operation.source}"
        if isinstance(self.operation, Overlay):
            return f"merge {where} into {self.path} at the next boot"
        return f"copy {where} to {self.path} in the root"

    def execute(self) -> str:
        return self.leaving.copy(self)


@dataclass(slots=True)
class Leaving:
    """``ephemeroot leave`` on the machine whose root is mounted at ``root``.

    ``plan`` is the applied plan. ``problems`` collects paths that could not be copied; if there is
    one, nothing is disarmed. ``left_out`` collects omissions that do not stop the machine from
    leaving, because a user can cause them: single entries that cannot be copied, and users' paths
    that exceed the bounds.
    """

    root: Path
    plan: Plan
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    copier: Copier = field(default_factory=Copier)

    def items(self) -> list[Item]:
        """The declared paths that must be copied, parents first. Paths that every boot copies
        (``method = "copy"``, machine-id) are already in the root.
        """
        return [Item(self, o) for o in self.plan.persist if isinstance(o, Bound)]

    def grouped(self, stores: dict[str, int]) -> list[list[Item]]:
        """The items in the order of ``leave --finish``: root's own paths first, then each user's
        paths with everything in them. Parents stay before children.
        """
        users: dict[str, int] = {}
        groups: dict[int, list[Item]] = {0: []}
        for item in self.items():
            above = [path for path in users if item.path.startswith(f"{path.rstrip('/')}/")]
            if above:
                user = users[max(above, key=len)]
            else:
                user = _owner(stores[item.operation.store], item.operation.source)
            if user:
                users[item.path] = user
            groups.setdefault(user, []).append(item)
        return list(groups.values())

    def prove(self) -> None:
        """Raise ``Refused`` if the paths cannot be copied into this root, and ``StoreMissing`` if a
        store is missing.
        """
        mount = mountinfo.mounted_at(os.path.realpath(self.root))
        if mount is None:
            raise Refused(
                f"{self.root} is not a mount point, so it is not the root of a machine",
                "name the mounted root with --root",
            )
        if mount.fstype == "overlay":
            raise Refused(
                "the root is an overlay: files copied into it would be lost at the next boot",
                "run 'ephemeroot next-boot keep', reboot, then run 'ephemeroot leave'",
            )
        if mount.fstype in ("tmpfs", "ramfs"):
            raise Refused(
                f"the root is a {mount.fstype}: there is no root on a disk to copy files into",
                "boot an installed root (root= on the kernel command line), then run "
                "'ephemeroot leave'",
            )
        if "ro" in mount.options:
            raise Refused(
                f"the root at {self.root} is mounted read-only",
                f"run 'mount -o remount,rw {self.root}'",
            )
        for path, fd in self._open_stores().items():
            os.close(fd)
            if os.path.realpath(self.root / path.lstrip("/")) == os.path.realpath(self.root):
                raise Refused(
                    f"the store {path} is the root filesystem itself",
                    "check that the volume of the store is mounted there",
                )

    def _open_stores(self) -> dict[str, int]:
        """Open the stores of the plan; checks the marker of each."""
        return open_stores(self.root, self.plan)

    def copy(self, item: Item) -> str:
        """Copy one path into the root, under its bind; return the result in words.

        Equal files are left alone. A failure is added to ``problems`` and does not stop the others.
        """
        if isinstance(item.operation, Overlay):
            return "done by the next boot"
        opened = self._open_stores()
        root = returning.bare_root(self.root, writable=True)
        self.copier.meter = Meter(bounds.attended())
        mirror = Mirror(excluded=self.below(item), copier=self.copier)
        store = opened[item.operation.store]
        try:
            returning.copy(mirror, item.operation, store, root, item.path, self.root)
        except (OSError, OutOfBounds, EphemerootError) as error:
            is_users = _owner(store, item.operation.source) != 0
            which = self.left_out if is_users and isinstance(error, OutOfBounds) else self.problems
            which.append(f"{item.describe()}: {reason(error)}")
            return f"failed: {reason(error)}"
        finally:
            for fd in (root, *opened.values()):
                os.close(fd)
        self.left_out += [f"{inside(item.path, name)} was not copied: {why}"
                          for name, why in mirror.skipped]  # fmt: skip
        count = len(mirror.changed) + len(mirror.removed)
        if not count:
            return "already present"
        result = f"{count} change{'' if count == 1 else 's'}"
        if mirror.flattened:
            result += f", {subvolume.flattened(mirror.flattened, item.path)}"
        return result

    def below(self, item: Item) -> list[str]:
        """The declared paths under that path, relative to it."""
        prefix = item.path.rstrip("/") + "/"
        below = (o.path for o in self.plan.persist if isinstance(o, Bound))
        return [path[len(prefix) :] for path in below if path.startswith(prefix)]

    def disarm(self) -> str:
        """Disarm all images of this plan: none of them wipes or binds after that."""
        if self.problems:
            raise EphemerootError(
                f"cannot disarm the boot: failed to {amounts.listed(self.problems, 1)}",
                "the machine boots as before; repair the path, then run 'ephemeroot leave' again",
            )
        root = returning.bare_root(self.root, writable=True)
        try:
            returning.remove(root, sources.PLAN.lstrip("/"))
            records.write(root, RECORD, self._record())
            kernel.sync_filesystem(root)
        finally:
            os.close(root)
        places = [self.root / store.path.lstrip("/") for store in self.plan.stores()]
        nothing = self._nothing(places)
        for place in places:
            stores.record(place, nothing.dump(), nothing.generation)
        live = applied.path(self.root)
        live.unlink(missing_ok=True)
        paths.sync_directory(str(live.parent))
        return f"the plan of generation {nothing.generation} is empty"

    def _nothing(self, places: list[Path]) -> Plan:
        """The empty plan. If an interrupted run has recorded it in some of the stores at *places*,
        it keeps its generation.
        """
        known = {place: stores.generation(place) for place in places}
        newest = max(self.plan.generation, *known.values())
        nothing = self.plan.changed(
            wipe=[o for o in self.plan.wipe if not isinstance(o, Wipe)],
            persist=[],
            generation=newest,
        )
        have = [place for place, generation in known.items() if generation == newest]
        if newest > self.plan.generation and all(
            stores.recorded(place) == nothing.dump() for place in have
        ):
            return nothing
        return nothing.changed(generation=newest + 1)

    def _record(self) -> bytes:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "since": time.time_ns(),
            "plan": self.plan.dump().decode("ascii"),
        }
        return json.dumps(content).encode() + b"\n"


def _owner(store: int, source: str) -> int:
    """The owner of *source* in the open *store*; root if it does not exist."""
    try:
        fd = paths.open_beneath(store, source)
    except OSError:
        return 0
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)


def with_adopted(root: Path, plan: Plan, configured: Plan) -> Plan:
    """*plan* with the paths that *configured* has in addition and that are bound on this machine:
    adopted, but not applied yet. A path that is not bound is the root's own content.
    """
    known = plan.declared()
    stores_of_plan = {store.path for store in plan.stores()}
    adopted = [
        o
        for o in configured.persist
        if isinstance(o, Linkable)
        and o.path not in known
        and o.store in stores_of_plan
        and _is_bound(root, o)
    ]
    return plan.changed(persist=[*plan.persist, *adopted])


def _is_bound(root: Path, operation: Linkable) -> bool:
    try:
        live = root / operation.path.lstrip("/")
        return live.samefile(root / operation.store.lstrip("/") / operation.source)
    except OSError:
        return False


def open_stores(root: Path, plan: Plan, where: dict[str, Path] | None = None) -> dict[str, int]:
    """Open the stores of *plan* on the machine at *root*; checks the marker of each.

    *where* maps stores that are mounted elsewhere to their places. Raises ``StoreMissing``.
    """
    opened: dict[str, int] = {}
    try:
        for store in plan.stores():
            place = (where or {}).get(store.path, root / store.path.lstrip("/"))
            try:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise StoreMissing(
                    f"cannot open the store {store.path}: {error.strerror}",
                    "mount its volume, then run the command again",
                ) from error
            opened[store.path] = fd
            found = records.read_marker(fd, store.path)
            if found != store.id:
                raise StoreMissing(
                    f"{place} has the marker of another store ({found} instead of {store.id})",
                    "mount the volume of the store, then run the command again",
                )
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def inside(path: str, name: str) -> str:
    """The entry *name* of the declared directory *path*; of a declared file both are the same."""
    return path if name == path else f"{path}/{name}".rstrip("/")


def reason(error: OSError | OutOfBounds | EphemerootError) -> str:
    """The failure in one line."""
    if isinstance(error, OutOfBounds):
        return str(error)
    if isinstance(error, EphemerootError):
        return error.message
    name = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{name}"
