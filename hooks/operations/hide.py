"""Hide binds from file managers: ``x-gvfs-hide`` in libmount's utab."""

from __future__ import annotations

from ephemeroot.hooks import tree
from ephemeroot.hooks.operation import Operation, field
from ephemeroot.linux import utab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class Hide(Operation):
    """Give the mounts at ``paths`` the options that only user space reads."""

    KIND = "hide"
    paths: list[str] = field("absolute paths", "mount points")
    options: list[str] = field("strings", "the options that are written", default=["x-gvfs-hide"])

    def describe(self) -> str:
        return f"mark {len(self.paths)} mounts {','.join(self.options)}"

    def execute(self, stage: Stage) -> str:
        """Paths that are not mounts (a file that was linked) are passed over."""
        places = []
        for path in self.paths:
            try:
                places.append(tree.resolve(stage.root(), path))
            except OSError:
                continue  # its own operation has failed and said so
        marked = utab.add(stage.utab(), stage.target, places, self.options)
        return f"marked {marked}"
