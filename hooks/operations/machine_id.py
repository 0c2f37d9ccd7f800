"""``/etc/machine-id``: always a copy, never bound and never a link.

``systemd-machine-id-commit.service`` starts whenever the file is a mount point and
fails on one it cannot unmount (systemd, src/core/machine-id-setup.c), so a bound one
means a failed unit at every boot.
"""

from __future__ import annotations

import os

from ephemeroot.errors import Refused
from ephemeroot.hooks.operation import Operation, field
from ephemeroot.hooks.store import machine_id_file, nesting
from ephemeroot.hooks.store.machine_id_file import PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class MachineId(Operation):
    """Have the store's machine-id in the root; create one, in the store first, if it is missing.

    With ``first_boot`` systemd makes it, and it is copied to the store afterwards.

    A machine that never had one stored takes that of its previous root (the wipe stage
    has put it into the store by now, see ``carry_over``).
    """

    KIND = "machine-id"
    store: str = field("absolute path", "the store that keeps it")
    source: str = field("path", "where the store has it", default="etc/machine-id")
    first_boot: bool = field("boolean", "systemd makes it, once", default=False)
    required: bool = field("boolean", "the boot fails if this does", default=False)

    def describe(self) -> str:
        return f"copy {PATH} from {self.store}"

    def execute(self, stage: Stage) -> str:
        prepared = stage.take_prepared(PATH)
        identity, result = self._have_identity(stage)
        if identity is None:
            return self._let_systemd_make_one(stage)
        place = stage.resolve_leaf(PATH)
        if machine_id_file.read(stage.root(), place) == identity:
            return prepared or "already present"
        machine_id_file.write(stage.root(), place, identity)
        return result

    def prepare(self, stage: Stage) -> str:
        identity, result = self._have_identity(stage)
        return result if identity and result != "copied" else ""

    def _have_identity(self, stage: Stage) -> tuple[str | None, str]:
        """The store's id, and how it comes to the root; ``None`` if systemd makes it."""
        result = "copied"
        identity = machine_id_file.read(stage.store(self.store), self.source)
        if identity is None:
            if self.first_boot:
                return None, ""
            identity = os.urandom(16).hex()
            # machine-id(5): a version 4 UUID, so that it can be used as one.
            identity = f"{identity[:12]}4{identity[13:16]}{_variant(identity[16])}{identity[17:]}"
            machine_id_file.write(stage.store(self.store), self.source, identity)
            # The name, too: after fsync of the directory alone, btrfs may keep both names
            # of a renamed file.
            stage.sync_stores()
            result = "made and copied"
        return identity, result

    def carry_over(self, stage: Stage, previous: int) -> str:
        """Keep the previous root's id if the store has none."""
        store = stage.store(self.store)
        identity = machine_id_file.read(previous, PATH)
        if identity is None or machine_id_file.read(store, self.source) is not None:
            return ""
        try:
            machine_id_file.write(store, self.source, identity)
        except OSError as error:
            raise Refused(
                f"the machine id cannot be saved in the store {self.store}: {error.strerror}",
                f"repair or remove {self.store}/{self.source}",
            ) from error
        return "stored"

    def describe_carry_over(self, stage: Stage) -> str:
        if machine_id_file.read(stage.store(self.store), self.source) is not None:
            return ""
        return f"keep the previous root's machine id in the store {self.store}"

    def _let_systemd_make_one(self, stage: Stage) -> str:
        place = stage.resolve_leaf(PATH)
        machine_id_file.write(stage.root(), place, "uninitialized")
        if nesting.persists_with(stage, self):
            return "left to systemd at the first boot"
        # A root in memory does not exist any more when the next boot looks for the id.
        entry: dict[str, object] = {"path": place, "store": self.store, "source": self.source}
        stage.copies.append(entry)
        return "left to systemd at the first boot"


def _variant(digit: str) -> str:
    return "89ab"[int(digit, 16) & 3]
