"""The units of systemd in a tree that need not be the running system's, and its text files."""

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
    """A unit of systemd at ``path``, and its settings, whatever their section."""

    path: str
    values: dict[str, str]


def units_of(root: int, endings: tuple[str, ...]) -> Iterator[Unit]:
    """The units of the open tree *root* whose names end with one of *endings*."""
    known: set[str] = set()
    for folder in _UNITS:
        for name in _listing(root, folder):
            if name not in known and name.endswith(endings):
                known.add(name)  # what is earlier in the order hides it, a mask too
                path = f"{folder}/{name}"
                yield Unit(path, _settings(text_of(root, path)))


def _settings(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.lstrip().startswith(("#", ";")):
            values[key.strip()] = value.strip().replace("%%", "%")
    return values


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
        return ""  # a device, as a mask is
    finally:
        os.close(fd)
    return raw.decode("utf-8", "surrogateescape")
