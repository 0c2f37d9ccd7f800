"""Problems of a configuration, with their places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ephemeroot.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the configuration: ``file``, the ``key`` path in it, and the line if known."""

    file: str
    key: str = ""
    line: int | None = None

    def __str__(self) -> str:
        parts = [self.file if self.line is None else f"{self.file}:{self.line}"]
        return ": ".join([*parts, self.key] if self.key else parts)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. ``reason`` and ``hint`` (the next step) are one line each, without a full stop.

    With a ``warning``, the configuration is usable.
    """

    file: str
    key: str
    reason: str
    hint: str = ""
    warning: bool = False
    line: int | None = None

    @classmethod
    def at(cls, place: Place, reason: str, hint: str = "", *, warning: bool = False) -> Problem:
        """A problem at *place*."""
        return cls(place.file, place.key, reason, hint, warning, place.line)

    @property
    def place(self) -> Place:
        """Its place."""
        return Place(self.file, self.key, self.line)

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.place}: {self.reason}{hint}"

    def to_json(self) -> dict[str, object]:
        """The problem as ``check --json`` prints it."""
        return {
            "file": self.file,
            "line": self.line,
            "key": self.key,
            "reason": self.reason,
            "hint": self.hint,
            "severity": "warning" if self.warning else "error",
        }


class Mistake(Exception):
    """An invalid value; the caller, which knows the place, makes a ``Problem`` of it."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Mistakes(Mistake):
    """Errors in several items of one list. ``found`` has each with the position of its item."""

    def __init__(self, found: list[tuple[int, Mistake]]) -> None:
        super().__init__("; ".join(mistake.reason for _, mistake in found), found[0][1].hint)
        self.found = found


class InvalidConfiguration(Misconfigured):
    """The configuration cannot be used; ``problems`` has all errors and warnings."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = ordered(problems)
        errors = [problem for problem in self.problems if not problem.warning]
        count = "an error" if len(errors) == 1 else f"{len(errors)} errors"
        super().__init__(f"the configuration has {count}", "run 'ephemeroot check'")


def ordered(problems: Iterable[Problem]) -> list[Problem]:
    """*problems* without duplicates: errors first, then by file and line."""
    unique = list(dict.fromkeys(problems))
    files = list(dict.fromkeys(problem.file for problem in unique))
    return sorted(
        unique,
        key=lambda problem: (problem.warning, files.index(problem.file), problem.line or 0),
    )
