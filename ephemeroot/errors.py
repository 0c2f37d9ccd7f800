"""The errors that this program raises on purpose.

Library code raises these; only ``main`` turns them into a message and an exit code.
A message names the failure and its object, the hint the next step. Any other exception
that reaches ``main`` is a bug and keeps its traceback.
"""

from __future__ import annotations


class EphemerootError(Exception):
    """An expected failure.

    ``message`` is one line without a full stop; ``hint`` is the next step for the administrator,
    or empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Refused(EphemerootError):
    """A check failed before any change: the root is unchanged."""


class ForeignRoot(EphemerootError):
    """The root of this boot is not the root of the plan: it boots unchanged.

    This is a separate outcome, not a failure. ``kind`` is one of ``root`` (another subvolume,
    dataset or device), ``filesystem`` (the same name on another filesystem or pool), ``layer``
    (another program mounts an overlay over the root) and ``crash`` (a crash kernel).
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class DeviceMissing(Refused):
    """A block device is missing. If it is the device of the root, no root can be kept either."""


class StoreMissing(Refused):
    """A volume needed for boot is missing, or is not the declared one."""


class Damaged(EphemerootError):
    """A plan or a record cannot be read, or has a version that this code does not know."""


class Locked(EphemerootError):
    """Another run holds the lock."""

    exit_code = 3


class Misconfigured(EphemerootError):
    """The configuration or the command line is wrong."""

    exit_code = 2
