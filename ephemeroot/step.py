"""A step of a run: a dry run prints the same object that a run executes.

Pruning at boot and all verbs have steps of this class. The stages of a boot have ``Operation``
(``hooks/operation.py``), which is part of the plan and runs in a stage.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Step:
    """One step, which describes itself. ``execute`` checks the target before it changes it.

    With ``GOES_ON``, a failure does not prevent the following steps.
    """

    __slots__ = ()

    GOES_ON = False
    warnings: Sequence[str] = ()
    """Warnings for the administrator although ``execute`` has succeeded, one line each."""

    def describe(self) -> str:
        """One line: the change that ``execute`` makes."""
        raise NotImplementedError

    def execute(self) -> str:
        """Make the change. Return the outcome in a few words, or nothing if the description is
        enough.

        Raises ``EphemerootError`` or ``OSError``.
        """
        raise NotImplementedError
