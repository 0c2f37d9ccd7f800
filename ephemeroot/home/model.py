"""The declarations of a user: checked, with absolute paths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import InvalidConfiguration, Place, Problem

BINDFS = "bindfs"
SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Entry:
    """A declared directory or file: ``source`` in the store is shown at ``target``.

    Both are absolute. ``store`` is the root of the store, ``method`` ``bindfs`` or
    ``symlink``. ``allow_other`` is only for bindfs.
    """

    source: str
    target: str
    store: str
    is_directory: bool
    method: str
    allow_other: bool
    place: Place

    @property
    def is_mounted(self) -> bool:
        """Whether it is mounted, not linked."""
        return self.method == BINDFS


@dataclass(frozen=True, slots=True)
class Store:
    """An enabled store. ``places`` are the places of its keys in the configuration."""

    path: str
    place: Place
    allow_other_place: Place


@dataclass(frozen=True, slots=True)
class HomeConfiguration:
    """A user's ``home.toml``. ``entries`` are in order, parents before their content."""

    file: str
    stores: tuple[Store, ...] = ()
    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()

    def require_valid(self) -> None:
        """Raise ``InvalidConfiguration`` if there is a mistake in it."""
        if any(not problem.warning for problem in self.problems):
            raise InvalidConfiguration(self.problems)


def parents_first(entries: Iterable[Entry]) -> list[Entry]:
    """*entries*, each after its parents."""
    return sorted(entries, key=lambda entry: clean.components(entry.target))
