"""Paths with the same declaration in two files, for example after ``adopt`` in its drop-in and in
the main file: one declaration takes effect, the other is superfluous.
"""

from __future__ import annotations

from collections.abc import Iterable

from ephemeroot.config.declared import Declared
from ephemeroot.config.syntax.problem import Problem

_OWNER = frozenset({"user", "group", "mode"})
_BINDING = frozenset({"hide-mounts", "allow-trash", "mount-options"})


def merge(declared: Iterable[Declared], problems: list[Problem]) -> list[Declared]:
    """*declared* without superfluous declarations; each of them is a warning. Two declarations that
    contradict each other, or are in one file, are kept: ``Claims`` refuses them.
    """
    found: list[Declared] = []
    first: dict[str, int] = {}
    for entry in declared:
        at = first.setdefault(entry.path, len(found))
        other = found[at] if at < len(found) else None
        if other is None or other.place.file == entry.place.file:
            found.append(entry)
        elif _is_superfluous(entry, other):
            problems.append(_warning(entry, other))
        elif _is_superfluous(other, entry):
            found[at] = entry
            problems.append(_warning(other, entry))
        else:
            found.append(entry)
    return found


def _is_superfluous(spare: Declared, other: Declared) -> bool:
    """Whether *other* has all keys of *spare* with the same values; it may have more."""
    if (spare.is_directory, spare.store) != (other.is_directory, other.store):
        return False
    if not spare.given & _OWNER and not other.given & _OWNER and spare.owner != other.owner:
        return False  # one belongs to a user, the other to root
    if (
        not spare.given & _BINDING
        and not other.given & _BINDING
        and spare.options.marks != other.options.marks
    ):
        return False
    return all(_value(key, spare) == _value(key, other) for key in spare.given)


def _value(key: str, entry: Declared) -> object:
    if key in _OWNER:
        return getattr(entry.owner, key)
    if key in _BINDING:
        return entry.options.marks
    if key == "parent-directory":
        return entry.parent
    if key == "store":
        return entry.store
    return getattr(entry.options, key.replace("-", "_"))


def _warning(spare: Declared, other: Declared) -> Problem:
    return Problem.at(
        spare.place,
        f"{spare.shown} is declared twice, with the same values",
        f"remove this entry or the other one ({other.place})",
        warning=True,
    )
