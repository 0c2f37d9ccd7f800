"""A path for adoption: the content that the root and the store have of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.adopt.drop_in import Declaration
from ephemeroot.hooks.operation import Seeded
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.linux.copying import Copier


@dataclass(slots=True)
class Candidate:
    """One path of the machine below ``root`` for adoption into ``store``. ``size`` is in
    bytes; ``declare`` is what the drop-in gets, ``None`` if it is declared already.

    ``inner`` are declared paths below it, relative to it: the store has those already, and
    they are left alone. ``there`` is whether the store has something under that name. ``is_link``:
    it is a symbolic link, and persists as one. With ``replace`` the store's content is kept aside.
    ``progress`` is called with each name.
    """

    root: Path
    path: str
    store: str
    operation: Seeded
    parents: tuple[Parent, ...]
    declare: Declaration | None
    inner: tuple[str, ...]
    there: bool
    size: int
    is_link: bool = False
    replace: bool = False
    progress: Callable[[Copier, str], None] = lambda copier, name: None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, else a regular file."""
        return isinstance(self.operation, Directory)
