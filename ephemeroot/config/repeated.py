"""One path declared in two files that say the same, as when a path that ``adopt`` has declared is
written into the main file: one declaration counts, the other can go.
"""

from __future__ import annotations

from collections.abc import Iterable

from ephemeroot.config.declared import Declared
from ephemeroot.config.syntax.problem import Problem

_OWNER = frozenset({"user", "group", "mode"})
_BINDING = frozenset({"hide-mounts", "allow-trash", "mount-options"})


def merge(declared: Iterable[Declared], problems: list[Problem]) -> list[Declared]:
    """*declared* without what another file says as well, each with a warning. Two declarations that
    contradict each other, or are in one file, both stay: ``Claims`` refuses them.
    """
    found: list[Declared] = []
    first: dict[str, int] = {}
    for entry in declared:
        at = first.setdefault(entry.path, len(found))
        other = found[at] if at < len(found) else None
        if other is None or other.place.file == entry.place.file:
            found.append(entry)
        elif _says_no_more(entry, other):
            problems.append(_spare(entry, other))
        elif _says_no_more(other, entry):
            found[at] = entry
            problems.append(_spare(other, entry))
        else:
            found.append(entry)
    return found


def _says_no_more(spare: Declared, other: Declared) -> bool:
    """Whether all that *spare* says of the path is what *other* says, who may say more."""
    if (spare.is_directory, spare.store) != (other.is_directory, other.store):
        return False
    if not spare.given & _OWNER and not other.given & _OWNER and spare.owner != other.owner:
        return False  # a user's directory here, root's there
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


def _spare(spare: Declared, other: Declared) -> Problem:
    return Problem.at(
        spare.place,
        f"{spare.shown} is declared twice: {other.place} says the same",
        "remove this line",
        warning=True,
    )
