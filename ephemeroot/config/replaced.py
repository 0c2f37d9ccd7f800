"""Files that programs replace by rename, from the table in ``replaced.toml``."""

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
    """One entry of the table: ``paths`` are patterns, ``by`` is the program that replaces files,
    ``source`` the place in its code. With ``checked``, another method than copy is a warning.
    """

    paths: tuple[str, ...]
    by: str
    source: str
    checked: bool


@cache
def table() -> tuple[Replaced, ...]:
    """All entries; the first that matches takes effect."""
    import tomllib

    with open(_TABLE, "rb") as file:
        entries = tomllib.load(file)["replaced"]
    return tuple(
        Replaced(tuple(one["paths"]), one["by"], one["source"], one["checked"]) for one in entries
    )


def find(path: str) -> Replaced | None:
    """The first entry that matches *path*, which is a file or a link."""
    names, patterns = _index()
    first = names.get(path)
    for number, beginning, pattern in patterns:
        if first is not None and number > first:
            break
        if path.startswith(beginning) and _expression(pattern).fullmatch(path):
            return table()[number]
    return None if first is None else table()[first]


def method(path: str) -> str:
    """The method that works for the file *path*; empty for the default."""
    return "copy" if find(path) is not None else ""


@cache
def _index() -> tuple[dict[str, int], list[tuple[int, str, str]]]:
    """The numbers of the entries: by path, and in their order with the literal prefix of each glob
    pattern, by which most patterns can be skipped.
    """
    names: dict[str, int] = {}
    patterns = []
    for number, one in enumerate(table()):
        for pattern in one.paths:
            if "*" in pattern:
                patterns.append((number, pattern.partition("*")[0], pattern))
            else:
                names.setdefault(pattern, number)
    return names, patterns


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    import re

    parts = re.split(r"(\*\*|\*)", pattern)
    joined = "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.compile(joined, re.DOTALL)
