"""The previous root before it is wiped: what the stores lack of it is saved into them."""

from __future__ import annotations

import errno
import os
import time

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks import limits
from ephemeroot.hooks.guards import proofs
from ephemeroot.hooks.omission import Allowance, Omission, adopt_line, cannot_take, takes_nothing
from ephemeroot.hooks.stage import WIPED
from ephemeroot.hooks.store import machine_id_file, order, overlaid, replaced, seeding, unseeded
from ephemeroot.linux import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.operation import Operation
    from ephemeroot.hooks.stage import Stage

# Something else is where the declared path or a directory above it should be.
_SHAPES = (
    errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.EEXIST, errno.EBUSY,
)  # fmt: skip


class HandOver:
    """Saves the paths declared below *target* and not below another of the *targets* that are
    wiped. *marks_kept*: the wiper can mark the previous root ``.keep``, so that everything that
    cannot be seeded is not lost; where it cannot, nothing is wiped instead.
    """

    __slots__ = ("_root_name", "marks_kept", "omissions", "stage", "target", "targets")

    def __init__(self, stage: Stage, target: str, targets: set[str], *, marks_kept: bool) -> None:
        self.stage = stage
        self.target = target
        self.targets = targets
        self.marks_kept = marks_kept
        self.omissions: list[Omission] = []
        self._root_name = ""

    def run(
        self, previous: str, name: str, *, boots: bool, layers: tuple[str, str] | None = None
    ) -> bool:
        """Save from the root mounted at *previous*; whether it must be marked ``.keep``.

        *name* is what its history calls it, or will; *boots*: whether it is the root of this boot
        if it is not wiped; *layers*: see ``Boot.hand_over``. Raises ``Refused`` if it must not be.
        """
        self._root_name = name
        root = self._as_root(previous)
        try:
            if layers is not None:
                self.stage.layers = overlaid.open_layers(*layers)
            try:
                self._save_all(root)
                keep = self._record()
                replaced.forget(self.stage, self._covers)
                self._sync()
            except (EphemerootError, OSError):
                if not boots:
                    self._remember_unsaved()
                raise
            self.stage.handed.add(self.target)
            return keep
        finally:
            self.stage.allowance = Allowance()
            if self.stage.layers is not None:
                overlaid.close_layers(self.stage.layers)
                self.stage.layers = None
            os.close(root)
            if self.target != "/":
                mounts.detach(self.stage.private("previous") + self.target)

    def _sync(self) -> None:
        """Write seeded files to disk before the wipe."""
        try:
            self.stage.sync_stores()
        except OSError as error:
            raise Refused(
                f"the store {error.filename} cannot be written to its disk: {error.strerror}",
                "look for errors of its disk in the kernel log ('dmesg')",
            ) from error

    def describe(self) -> list[str]:
        """What ``run`` would save, a line each, in its order; nothing is changed."""
        found = []
        for group in order.grouped([o for o in self.stage.plan.persist if self._covers(o)]):
            for operation in group.operations:
                try:
                    line = operation.describe_carry_over(self.stage)
                except (EphemerootError, OSError) as error:
                    line = f"{operation.describe()}: cannot be seeded: {error}"
                if line:
                    found.append(line)
        return found

    def settle(self) -> None:
        """The wipe is done: the old root has its name. Raises ``EphemerootError``, ``OSError``."""
        if not self._root_name:
            return
        for path, store in self.stage.stores():
            unseeded.settle(store, path, self.target, self._root_name)
        self.stage.sync_stores()

    def _save_all(self, root: int) -> None:
        """Root's entries first; a user's entries cannot use up the time of others."""
        stage = self.stage
        groups = order.grouped([o for o in stage.plan.persist if self._covers(o)])
        for group, deadline in order.timed(groups, limits.SEEDING):
            stage.allowance = Allowance(
                deadline,
                omissions=self.omissions if self.marks_kept else None,
                partial=group.user != order.ROOT,
            )
            for operation in group.operations:
                started = time.monotonic()
                saved = self._saved(operation, root)
                if saved:
                    stage.report.operation(operation, saved, time.monotonic() - started)

    def _saved(self, operation: Operation, root: int) -> str:
        """Save one path. Data that would be lost for good stops the wipe: a store that cannot
        take the path, a disk that fails, an error of a root's entry. A user's entry stays behind in
        the old root, which is kept. A hostile shape in the store does neither.
        """
        try:
            return operation.carry_over(self.stage, root)
        except Refused:
            raise
        except (EphemerootError, OSError) as error:
            path = getattr(operation, "path", machine_id_file.PATH)
            if isinstance(error, OSError) and takes_nothing(error):
                raise cannot_take(getattr(operation, "store", "?"), path, error) from error
            if isinstance(error, seeding.NotSeeded):
                raise Refused(error.message, error.hint) from None
            if isinstance(error, OSError) and _is_to_be_seeded(operation, error):
                self._leave_behind(operation, error)
                return ""
            self.stage.report.problem(f"{operation.describe()}: not seeded: {error}")
            return ""

    def _leave_behind(self, operation: Operation, error: OSError) -> None:
        """The store does not have the path. Raises ``Refused`` unless it is a user's."""
        path, store = getattr(operation, "path", "?"), getattr(operation, "store", "?")
        reason = error.strerror or str(error)
        allowance = self.stage.allowance
        if allowance.omissions is None or not allowance.partial:
            raise Refused(f"cannot copy {path} to the store {store}: {reason}", adopt_line(path))
        source = getattr(operation, "source", "")
        allowance.omissions.append(Omission(path, store, source, reason))

    def _record(self) -> bool:
        """Record the omissions, and report them; whether the previous root must be kept."""
        keep = False
        for path, store in self.stage.stores() if self.marks_kept else ():
            found = [omission for omission in self.omissions if omission.store == path]
            keep |= unseeded.add(store, path, found, self.target, self._root_name)
        for omission in self.omissions:
            self.stage.report.problem(omission.describe(), omission.hint())
        if self.omissions:
            listed = [omission.to_json() for omission in self.omissions]
            self.stage.report.set(f"unseeded {self.target}", listed)
        return keep

    def _remember_unsaved(self) -> None:
        """Another root boots, which lacks the files that could not be saved: the persistence stage
        must not take that for the content of a path that the store lacks.
        """
        stage = self.stage
        record = stage.recall(WIPED) or {"boot-id": stage.boot_id}
        record[unseeded.UNSAVED] = [self.target]
        stage.remember(WIPED, record)
        stage.reserve(WIPED)

    def _as_root(self, previous: str) -> int:
        """*previous*, opened as a root in which it has its place: a volume below its mount
        point.
        """
        place = previous
        if self.target != "/":
            place = self.stage.private("previous")
            os.makedirs(place + self.target, 0o700, exist_ok=True)
            proofs.bind(previous, place + self.target)
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _covers(self, operation: Operation) -> bool:
        """Whether the path of *operation* is on the target wiped here."""
        path = getattr(operation, "path", "/") + "/"
        above = [target for target in self.targets if path.startswith(target.rstrip("/") + "/")]
        return max(above, key=len, default="/") == self.target


def _is_to_be_seeded(operation: Operation, error: OSError) -> bool:
    """Whether *error* prevents the seeding of a declared path. A missing parent directory alone is
    not an error, and a path of another type exists in the store.
    """
    return operation.KIND in ("directory", "file", "copy") and error.errno not in _SHAPES
