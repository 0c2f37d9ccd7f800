"""The errors this program raises on purpose.

Library code raises these; only ``main`` turns them into a message and an exit code.
A message says what failed and on which path, the hint says what to do next. Anything
else that reaches ``main`` is a bug and keeps its traceback.
"""

from __future__ import annotations


class EphemerootError(Exception):
    """Something failed in a way that was foreseen.

    ``message`` is one line, without a full stop at the end; ``hint`` is what to do
    next, or empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Refused(EphemerootError):
    """A proof failed before anything was changed: the root is unchanged."""


class ForeignRoot(EphemerootError):
    """The root of this boot is not the one that the plan was applied for: it boots untouched.

    An outcome of its own and not a failure. ``kind`` is one of ``root`` (another subvolume, dataset
    or device is named), ``filesystem`` (the same name on another filesystem or pool), ``layer``
    (another program puts something over the root) and ``crash`` (a crash kernel).
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class DeviceMissing(Refused):
    """A block device is missing. Where it is the root's, there is nothing to keep either."""


class StoreMissing(Refused):
    """A volume needed for boot is missing, or is not the one that was declared."""


class Damaged(EphemerootError):
    """A plan or a record cannot be read, or is of a version this code does not know."""


class Locked(EphemerootError):
    """Another run holds the lock."""

    exit_code = 3


class Misconfigured(EphemerootError):
    """The configuration or the command line is wrong."""

    exit_code = 2
