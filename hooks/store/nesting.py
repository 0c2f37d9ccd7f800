"""Declared paths inside declared directories: which of them persists by itself.

A path inside a directory that is mounted from the same store persists with that directory: its
own content in the store is the content that the directory shows. Inside a directory of another
store it is what that directory shows that a program has seen at the path, not the bare root's.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import records, tree
from ephemeroot.linux import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ephemeroot.hooks.operation import Operation
    from ephemeroot.hooks.stage import Stage

EFFECT = ".ephemeroot/effect"
"""The file in a root that says what its boots have put there: ``mounted`` maps declared directories
to their stores, ``parents`` lists the directories that were made on the way to a declared path.
"""

BIND, OVERLAY = "directory", "overlay"


class Nesting:
    """The declared directories among the *operations* of a plan."""

    __slots__ = ("_above_copies", "_directories", "_inside", "_operations")

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations
        self._directories: dict[str, Operation] = {
            path_of(operation): operation
            for operation in operations
            if operation.KIND in (BIND, OVERLAY)
        }
        self._above_copies: set[str] = set()
        for operation in operations:
            if operation.KIND == "copy":
                self._above_copies.update(_above(path_of(operation)))
        self._inside: dict[str, list[Operation]] | None = None

    def outer(self, path: str) -> Operation | None:
        """The innermost declared directory that *path* is inside; ``None`` if there is none."""
        found = (self._directories.get(above) for above in _above(path))
        return next((outer for outer in found if outer is not None), None)

    def mounted_with(self, path: str, store: str) -> Operation | None:
        """The declared directory whose mount shows *path* of *store*: the outermost of those of
        that store that it is inside; ``None`` if the innermost one is of another store.
        """
        found = None
        outer = self.outer(path)
        while outer is not None and store_of(outer) == store:
            found, outer = outer, self.outer(path_of(outer))
        return found

    def has_copies(self, directory: Operation) -> bool:
        """Whether a file inside *directory* is copied."""
        return path_of(directory) in self._above_copies

    def inside(self, directory: Operation) -> list[Operation]:
        """The paths declared inside *directory*. Paths inside a directory nested in it are left
        out, unless that directory and the path are in the store of *directory*.
        """
        if self._inside is None:
            self._inside = {}
            for operation in self._operations:
                if not hasattr(operation, "paths"):
                    for path in self._insides(operation):
                        self._inside.setdefault(path, []).append(operation)
        return self._inside.get(path_of(directory), [])

    def _insides(self, operation: Operation) -> Iterator[str]:
        """The directories that *operation* is ``inside`` of."""
        store = store_of(operation)
        inner, outer = None, self.outer(path_of(operation))
        while outer is not None and (inner is None or store_of(inner) == store_of(outer) == store):
            yield path_of(outer)
            inner, outer = outer, self.outer(path_of(outer))


def _above(path: str) -> Iterator[str]:
    """The directories that *path* is in, without ``/``."""
    while path := path.rpartition("/")[0]:
        yield path


def path_of(operation: Operation) -> str:
    """The declared path of *operation*; ``/`` for one that has none."""
    return getattr(operation, "path", "/")


def store_of(operation: Operation) -> str:
    """The store of *operation*; empty for one that has none."""
    return getattr(operation, "store", "")


def outer_in_effect(stage: Stage, path: str) -> Operation | None:
    """The declared directory that *path* is inside, if this boot has mounted it."""
    outer = stage.plan.nesting().outer(path)
    return outer if outer is not None and path_of(outer) in stage.in_effect else None


def persists_with(stage: Stage, operation: Operation) -> Operation | None:
    """The directory that *operation* is inside, if it is mounted from the same store."""
    outer = outer_in_effect(stage, path_of(operation))
    return outer if outer is not None and store_of(outer) == store_of(operation) else None


def is_in_overlay(stage: Stage, operation: Operation) -> bool:
    """Whether the source of *operation* is in the upper directory of a mounted overlay, where
    nothing may be changed but through the overlay (Documentation/filesystems/overlayfs.rst).

    Of nested directories of one store, only the outermost is mounted.
    """
    found = None
    outer = persists_with(stage, operation)
    while outer is not None:
        found, outer = outer, persists_with(stage, outer)
    return found is not None and found.KIND == OVERLAY


def has_place(stage: Stage, operation: Operation) -> bool:
    """Whether the store has the directory that the source of *operation* goes into, as far as that
    is declared itself: an overlay's upper directory may not be made before the overlay.
    """
    outer = stage.plan.nesting().outer(path_of(operation))
    if outer is None or store_of(outer) != store_of(operation):
        return True
    return tree.is_directory(stage.store(store_of(outer)), getattr(outer, "source", ""))


def through(stage: Stage, operation: Operation) -> str:
    """The other store that a file made at the path of *operation* is in; empty if it is in the
    root itself.
    """
    outer = outer_in_effect(stage, path_of(operation))
    if outer is None or store_of(outer) == store_of(operation):
        return ""
    return store_of(outer)


def remember(stage: Stage) -> None:
    """Record in the root what this boot has put there. Raises ``OSError``."""
    if stage.in_effect or stage.leading:
        leading = sorted(leading_in(stage.root()).union(stage.leading))
        content = documents.dump({"mounted": stage.in_effect, "parents": leading})
        records.write(stage.root(), EFFECT, content)


def leading_in(root: int) -> frozenset[str]:
    """The directories that were made in the open *root* because they lead to a declared path. They
    may have got content of their own since.
    """
    try:
        return frozenset(_read(root)["parents"])
    except (OSError, ValueError, TypeError, KeyError, EphemerootError):
        return frozenset()


def _read(root: int) -> dict[str, Any]:
    content = documents.parse(records.read(root, EFFECT))
    if not isinstance(content, dict):
        raise ValueError(EFFECT)
    return content


def was_through(stage: Stage, operation: Operation, previous: int) -> bool:
    """Whether the boot of the open *previous* root showed the path of *operation* through a
    declared directory. What the bare root has there was not in use then.

    Without a record (its boot was cut off, or was an older version's) it is taken to be so if the
    store had the directory before this boot.
    """
    outer = stage.plan.nesting().outer(path_of(operation))
    if outer is None:
        return False
    try:
        return bool(_read(previous)["mounted"].get(path_of(outer)) == store_of(outer))
    except (OSError, ValueError, AttributeError, KeyError, EphemerootError):
        source = getattr(outer, "source", "")
        seeded = path_of(outer) in stage.seeded
        return not seeded and stage.parents(store_of(outer)).has_content(source)
