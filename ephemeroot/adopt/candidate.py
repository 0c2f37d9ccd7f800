"""A path for adoption, with its content in the root and in the store."""

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
    bytes; ``declare`` is the new entry of the drop-in, ``None`` for a declared path.

    ``inner`` are declared paths below it, relative to it: they are already in the store and are
    left out. ``in_store``: the store has a file of that name. ``is_link``: the path is a symbolic
    link and stays one. With ``replace`` the previous content of the store is kept aside.
    ``progress`` is called with each name.
    """

    root: Path
    path: str
    store: str
    operation: Seeded
    parents: tuple[Parent, ...]
    declare: Declaration | None
    inner: tuple[str, ...]
    in_store: bool
    size: int
    is_link: bool = False
    replace: bool = False
    progress: Callable[[Copier, str], None] = lambda copier, name: None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        """Whether the path is a directory."""
        return isinstance(self.operation, Directory)
