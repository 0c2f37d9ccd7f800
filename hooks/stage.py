"""What an operation finds around it while a stage runs."""

from __future__ import annotations


class Stage:
    """One run of one stage. (Filled in below this line as the stages need it.)"""

    __slots__ = ()
