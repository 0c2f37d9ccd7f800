"""Hide binds from file managers: ``x-gvfs-hide`` in libmount's utab."""

from __future__ import annotations

from ephemeroot.hooks.operation import REQUIRED, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class Hide(Operation):
    """Mark the mounts at ``paths`` (as they are called after ``switch_root``)."""

    KIND = "hide"
    FIELDS = (
        ("paths", "list of paths", REQUIRED),
        ("options", "list of strings", ["x-gvfs-hide"]),
    )
    __slots__ = ("options", "paths")
    paths: list[str]
    options: list[str]

    def describe(self) -> str:
        return f"mark {len(self.paths)} mounts {','.join(self.options)}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError
