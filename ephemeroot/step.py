"""What a run does, one step at a time: the object that a dry run shows is the one that acts.

Pruning at boot and all verbs have steps of this class. The stages of a boot have ``Operation``
(``hooks/operation.py``), which is part of the plan and acts in a stage.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Step:
    """One step: it describes itself, and proves what it is about to change when it acts.

    ``GOES_ON`` says whether the steps after it are carried out if this one fails.
    """

    __slots__ = ()

    GOES_ON = False
    warnings: Sequence[str] = ()
    """What a person must know although ``execute`` has succeeded, one line each."""

    def describe(self) -> str:
        """One line that says what ``execute`` will do."""
        raise NotImplementedError

    def execute(self) -> str:
        """Do it, and return in a word or two what it came to; empty if the description says it.

        Raises ``EphemerootError`` or ``OSError``.
        """
        raise NotImplementedError
