"""Which files programs replace by rename: the table in ``replaced.toml``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

_TABLE = os.path.join(os.path.dirname(__file__), "replaced.toml")


@dataclass(frozen=True, slots=True)
class Replaced:
    """One entry of the table: ``paths`` are patterns, ``by`` is what replaces such a file and
    ``source`` where its code does. ``checked``: another method than a copy is worth a warning.
    """

    paths: tuple[str, ...]
    by: str
    source: str
    checked: bool


@cache
def table() -> tuple[Replaced, ...]:
    """All entries, in the order in which they are asked."""
    import tomllib

    with open(_TABLE, "rb") as file:
        entries = tomllib.load(file)["replaced"]
    return tuple(
        Replaced(tuple(one["paths"]), one["by"], one["source"], one["checked"]) for one in entries
    )


def find(path: str) -> Replaced | None:
    """The first entry with a pattern that *path*, of a file or a link, matches."""
    return next((one for one, pattern in _patterns() if pattern.fullmatch(path)), None)


def method(path: str) -> str:
    """The method that works for the file *path*; empty for the default."""
    return "copy" if find(path) is not None else ""


@cache
def _patterns() -> list[tuple[Replaced, re.Pattern[str]]]:
    import re

    return [(one, re.compile(_expression(p), re.DOTALL)) for one in table() for p in one.paths]


def _expression(pattern: str) -> str:
    import re

    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
