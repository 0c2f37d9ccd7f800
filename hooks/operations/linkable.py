"""A declared directory or file that may be a link into its store: what a wipe hands over of it."""

from __future__ import annotations

from ephemeroot.hooks.operation import Seeded, field
from ephemeroot.hooks.store import nesting, replaced, seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class Linkable(Seeded):
    """Before the wipe, the store gets what a program has put instead of the link, or is seeded
    if it has nothing for the path yet.
    """

    options: list[str] = field("strings", "options of the bind", default=[])

    def kinds(self, stage: Stage) -> tuple[int, ...]:
        """The types of files that can be seeded (``stat.S_IFREG``)."""
        raise NotImplementedError

    def carry_over(self, stage: Stage, previous: int) -> str:
        """Seed the store with the previous root's content if it has none yet."""
        if nesting.was_through(stage, self, previous):
            return ""
        taken = replaced.take(stage, self, previous, self.kinds(stage))
        if taken or not self._is_to_be_seeded(stage):
            return taken
        return self._seed(stage, previous)

    def describe_carry_over(self, stage: Stage) -> str:
        taken = replaced.describe(stage, self)
        if taken:
            return taken
        return seed.describe(self.path, self.store) if self._is_to_be_seeded(stage) else ""

    def _is_to_be_seeded(self, stage: Stage) -> bool:
        raise NotImplementedError

    def _seed(self, stage: Stage, root: int) -> str:
        raise NotImplementedError
