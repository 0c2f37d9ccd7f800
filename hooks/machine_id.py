"""``/etc/machine-id``: always a copy, never bound and never a link.

``systemd-machine-id-commit.service`` starts whenever the file is a mount point and
fails on one it cannot unmount (systemd, src/core/machine-id-setup.c), so a bound one
means a failed unit at every boot.
"""

from __future__ import annotations

from ephemeroot.hooks.operation import REQUIRED, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class MachineId(Operation):
    """Have the store's machine-id in the root; make one, store first, if there is none."""

    KIND = "machine-id"
    FIELDS = (
        ("store", "path", REQUIRED),
        ("source", "relative path", "etc/machine-id"),
        ("first_boot", "boolean", False),
    )
    __slots__ = ("first_boot", "source", "store")
    store: str
    source: str
    first_boot: bool

    def describe(self) -> str:
        return f"copy /etc/machine-id from {self.store}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError
