"""systemd's units in a tree that may not be the running system's, and its text files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ephemeroot.linux import documents, paths

_UNITS = (
    "/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator.early",
    "/run/systemd/generator", "/run/systemd/generator.late", "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system", "/lib/systemd/system",
)  # fmt: skip
_LONGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of systemd at ``path``, and its settings of all sections, followed by those of its
    drop-ins. An empty value resets the earlier ones.
    """

    path: str
    lists: dict[str, list[str]]

    def last(self, key: str) -> str:
        """The last value of *key*; empty without one."""
        return (self.lists.get(key) or [""])[-1]


def units_of(root: int, endings: tuple[str, ...]) -> Iterator[Unit]:
    """The units of the open tree *root* whose names end with one of *endings*."""
    known: set[str] = set()
    for folder in _UNITS:
        for name in _listing(root, folder):
            if name not in known and name.endswith(endings):
                known.add(name)  # it hides later ones, also if it is a mask
                path = f"{folder}/{name}"
                texts = (text_of(root, one) for one in (path, *_drop_ins(root, name)))
                yield Unit(path, _settings("\n".join(texts)))


def is_true(value: str) -> bool:
    """Whether *value* is a boolean that is true (systemd.syntax(7))."""
    return value.lower() in ("1", "yes", "y", "true", "t", "on")


def _drop_ins(root: int, name: str) -> list[str]:
    """The drop-ins of the unit *name* in their order; one hides later ones of the same name."""
    found: dict[str, str] = {}
    for folder in _UNITS:
        for one in _listing(root, f"{folder}/{name}.d"):
            if one.endswith(".conf"):
                found.setdefault(one, f"{folder}/{name}.d/{one}")
    return [found[one] for one in sorted(found)]


def _settings(text: str) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if not separator or line.lstrip().startswith(("#", ";")):
            continue
        key, value = key.strip(), value.strip().replace("%%", "%")
        if value:
            lists.setdefault(key, []).append(value)
        else:
            lists[key] = []
    return lists


def _listing(root: int, folder: str) -> list[str]:
    try:
        fd = paths.open_in_root(root, folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return sorted(paths.names(fd))
    finally:
        os.close(fd)


def text_of(root: int, path: str) -> str:
    """The text of the regular file *path* of the open tree *root*; empty if there is none."""
    try:
        fd = paths.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        raw = documents.read_open(fd, path, _LONGEST)
    except OSError:
        return ""  # a device, as for a masked unit
    finally:
        os.close(fd)
    return raw.decode("utf-8", "surrogateescape")
