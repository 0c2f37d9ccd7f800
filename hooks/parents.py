"""Directories that a store has only because they lead to a persistent path.

``apply`` puts /etc/ephemeroot into a store, which then has an ``etc`` that is not declared. Such a
directory is not content: when it is declared itself, it is seeded. The store has a record of them,
because a declared directory that a user has emptied looks the same.
"""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import records, tree
from ephemeroot.hooks.records import STATE
from ephemeroot.linux import attributes, immutable, paths

RECORD = f"{STATE}/parents"
"""NUL-terminated paths, relative to the store."""


class Parents:
    """The record of the open *store*; empty if there is none that can be used."""

    __slots__ = ("_known", "_store")

    def __init__(self, store: int) -> None:
        self._store = store
        try:
            raw = records.read(store, RECORD)
        except (OSError, EphemerootError):
            raw = b""
        self._known = frozenset(os.fsdecode(path) for path in raw.split(b"\0") if path)

    def __contains__(self, source: str) -> bool:
        return source in self._known

    def add(self, sources: list[str]) -> None:
        """Record *sources* before they are made: a directory that is not recorded is content.

        Raises ``OSError``.
        """
        if not self._known.issuperset(sources):
            self._write(self._known | set(sources))

    def remove(self, source: str) -> None:
        """Record that *source*, with all that is in it, is content. Raises ``OSError``."""
        stays = frozenset(p for p in self._known if not f"{p}/".startswith(f"{source}/"))
        if stays != self._known:
            self._write(stays)

    def has_content(self, source: str) -> bool:
        """Whether the store has the directory *source*, and not only as a parent.

        Raises ``OSError`` if it has something else there.
        """
        return tree.is_directory(self._store, source) and source not in self._known

    def fill(self, source_parent: int, source: str, parent: int, name: str, path: str) -> None:
        """Move what the store lacks of the directory *source* into the directory *name*, which is
        *path* in the store: the existing content stays. *source_parent* and *parent* are open.

        Only directories that are parents themselves are filled likewise. The rest of *source*
        is the caller's to remove. Without *name* the whole directory gets that name.
        """
        if not tree.exists(parent, name):
            immutable.rename(source_parent, source, parent, name, how=paths.RENAME_NOREPLACE)
            return
        old = paths.open_beneath(source_parent, source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            new = paths.open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for entry in paths.names(old):
                    self._move(old, new, entry, f"{path}/{entry}")
                attributes.copy(old, new)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _move(self, old: int, new: int, entry: str, path: str) -> None:
        try:
            immutable.rename(old, entry, new, entry, how=paths.RENAME_NOREPLACE)
        except FileExistsError:
            both = tree.is_directory_entry(old, entry) and tree.is_directory_entry(new, entry)
            if both and path in self._known:
                self.fill(old, entry, new, entry, path)

    def _write(self, sources: frozenset[str]) -> None:
        content = b"".join(os.fsencode(source) + b"\0" for source in sorted(sources))
        records.write(self._store, RECORD, content)
        self._known = sources
