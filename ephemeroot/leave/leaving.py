"""Off: the declared paths go back into the root, and no image wipes any more.

The order is the safety. First everything is copied into the root under the binds, while the
machine is armed as usual: a power cut then boots a fresh root, and all data is in the
stores. Then the root gets a record of what is under way, and the stores a plan that does nothing,
of a newer generation: from that moment on no older image wipes or binds, whatever becomes of the
images. What programs have changed in the stores meanwhile is brought over by the first boot
(``finish``), before anything reads it; changes made in the root since are never overwritten.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.config import sources
from ephemeroot.errors import EphemerootError, Refused, StoreMissing
from ephemeroot.hooks import records
from ephemeroot.hooks.operations.linkable import Linkable
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.leave import returning
from ephemeroot.leave.returning import Taken
from ephemeroot.linux import bounds, kernel, mountinfo, paths, subvolume
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.mirror.tree import Mirror
from ephemeroot.plan import applied, stores
from ephemeroot.step import Step

RECORD = ".ephemeroot/leaving.json"
"""In the root, from the moment on at which everything is in it until the first boot after."""

FAILED = ".ephemeroot/leaving-failed.json"

FORMAT = "ephemeroot-leaving"
VERSION = 1


class Item(Step):
    """One declared path on its way back: ``path`` in the root, from ``source`` in ``store``."""

    __slots__ = ("leaving", "operation")

    def __init__(self, leaving: Leaving, operation: Taken) -> None:
        self.leaving = leaving
        self.operation = operation

    @property
    def path(self) -> str:
        """Where the machine has it."""
        return self.operation.path

    def describe(self) -> str:
        where = f"{self.operation.store.rstrip('/')}/{self.operation.source}"
        if isinstance(self.operation, Overlay):
            return f"merge {where} into {self.path}, at the next boot"
        return f"copy {where} back to {self.path} in the root"

    def execute(self) -> str:
        return self.leaving.copy(self)


@dataclass(slots=True)
class Leaving:
    """What leaving comes to on the machine whose root is mounted at ``root``.

    ``plan`` is the applied one. ``problems`` collects everything that could not be copied: with one
    of them nothing is disarmed. ``left_out`` collects the entries with which a user may not stop
    the machine from leaving: single entries that cannot be copied, and users' paths that exceed the
    bounds.
    """

    root: Path
    plan: Plan
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    copier: Copier = field(default_factory=Copier)

    def items(self) -> list[Item]:
        """The declared paths that have to be copied, parents first. Paths that every boot
        copies (``method = "copy"``, machine-id) are already in the root.
        """
        return [Item(self, o) for o in self.plan.persist if isinstance(o, Taken)]

    def grouped(self, stores: dict[str, int]) -> list[list[Item]]:
        """The same in the order of ``leave --finish``: root's own first, then each user's
        paths, with their content. Parents stay before children.
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
        """Raise ``Refused`` or ``StoreMissing`` if this root cannot be left into, or a store
        is missing.
        """
        mount = mountinfo.mounted_at(os.path.realpath(self.root))
        if mount is None:
            raise Refused(f"{self.root} is not a mount point: it is not the root of a machine")
        if mount.fstype == "overlay":
            raise Refused(
                "the root is an overlay: files copied into it would be lost at the boot",
                "run 'ephemeroot next-boot keep', reboot, and leave from there",
            )
        if mount.fstype in ("tmpfs", "ramfs"):
            raise Refused(
                "the root is in memory: there is no root on a disk to copy back to",
                "boot an installed root (root= on the kernel command line), and leave from there",
            )
        if "ro" in mount.options:
            raise Refused("the root is mounted read-only", f"mount -o remount,rw {self.root}")
        for path, fd in self._open_stores().items():
            os.close(fd)
            if os.path.realpath(self.root / path.lstrip("/")) == os.path.realpath(self.root):
                raise Refused(f"the store {path} is the root itself")

    def _open_stores(self) -> dict[str, int]:
        """The stores of the plan, open, each proven by its marker."""
        return open_stores(self.root, self.plan)

    def copy(self, item: Item) -> str:
        """Copy one path into the root, under its bind; say how much had to be done.

        Equal files are not touched. A failure is a problem and does not
        stop the others.
        """
        if isinstance(item.operation, Overlay):
            return "waits for the next boot"
        opened = self._open_stores()
        root = returning.bare_root(self.root, writable=True)
        self.copier.meter = Meter(bounds.attended())
        mirror = Mirror(excluded=self.below(item), copier=self.copier)
        store = opened[item.operation.store]
        try:
            returning.bring(mirror, item.operation, store, root, item.path, self.root)
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
        """What other declarations have below that path, relative to it."""
        prefix = item.path.rstrip("/") + "/"
        below = (o.path for o in self.plan.persist if isinstance(o, Taken))
        return [path[len(prefix) :] for path in below if path.startswith(prefix)]

    def disarm(self) -> str:
        """From here on no image of this plan wipes or binds. Everything is in the root."""
        if self.problems:
            raise EphemerootError(
                "the copy back failed, so nothing was disarmed and the machine boots as before: "
                f"{self.problems[0]}",
                "repair it and run 'ephemeroot leave' again",
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
        return f"generation {nothing.generation} does nothing"

    def _nothing(self, places: list[Path]) -> Plan:
        """The plan that does nothing. An interrupted run may have recorded it in some of the stores
        at *places*: it keeps its generation then.
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
    """Who owns what the open *store* has; root if it has nothing, for then there is no work."""
    try:
        fd = paths.open_beneath(store, source)
    except OSError:
        return 0
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)


def with_adopted(root: Path, plan: Plan, configured: Plan) -> Plan:
    """*plan* with what *configured* has beside it and this machine has bound already: adopted,
    and not applied yet. A path that is not bound is the root's own content.
    """
    known = plan.declared()
    there = {store.path for store in plan.stores()}
    adopted = [
        o
        for o in configured.persist
        if isinstance(o, Linkable)
        and o.path not in known
        and o.store in there
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
    """The stores of *plan* on the machine below *root*, open, each proven by its marker.

    *where* says where one is mounted if not at its own place. Raises ``StoreMissing``.
    """
    opened: dict[str, int] = {}
    try:
        for store in plan.stores():
            place = (where or {}).get(store.path, root / store.path.lstrip("/"))
            try:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise StoreMissing(
                    f"the store {store.path} is missing: {error.strerror}", "mount its volume"
                ) from error
            opened[store.path] = fd
            found = records.read_marker(fd, store.path)
            if found != store.id:
                raise StoreMissing(f"{place} is another store ({found})", "mount the right one")
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def inside(path: str, name: str) -> str:
    """The entry *name* of the declared directory *path*; of a declared file both are the same."""
    return path if name == path else f"{path}/{name}".rstrip("/")


def reason(error: OSError | OutOfBounds | EphemerootError) -> str:
    """The failure, in one line."""
    if isinstance(error, OutOfBounds):
        return str(error)
    if isinstance(error, EphemerootError):
        return error.message
    name = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{name}"
