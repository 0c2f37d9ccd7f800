"""Entry points that installed packages declare for this program in ``entry_points.txt``.

``importlib.metadata`` reads the same files, but its import takes four times as long as starting the
interpreter: it imports ``email``, ``zipfile`` and ``socket``. This module reads packages installed
by pip and by distributions, and chooses among several versions of a package as
``importlib.metadata`` does. It leaves other cases to that module: packages in archives, finders of
other projects, unusual references.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, machinery
from typing import NamedTuple, TypeVar

from ephemeroot.linux import paths

T = TypeVar("T")

Failure = Callable[[str, str], Exception]
"""Creates the caller's error from message and hint."""

_ENDS = (".dist-info", ".egg-info")


class EntryPoint(NamedTuple):
    """A name, and its reference: ``module:attribute``."""

    name: str
    value: str


class _Unreadable(Exception):
    """Only ``importlib.metadata`` can read a package on the path."""


def declared(group: str) -> list[EntryPoint]:
    """The entry points of the *group* in all packages on ``sys.path``, each once."""
    try:
        found = list(_read(group))
    except _Unreadable:
        from importlib import metadata

        found = [EntryPoint(one.name, one.value) for one in metadata.entry_points(group=group)]
    return list(dict.fromkeys(found))


def find(group: str, name: str, what: str, failure: Failure) -> str:
    """The reference of *name*; empty if no package declares it.

    Several packages may declare the same reference. Different ones raise a *failure*, whose message
    uses *what*.
    """
    values = sorted(one.value for one in declared(group) if one.name == name)
    if len(values) > 1:
        raise failure(
            f"several installed packages provide {what} {name!r}: {', '.join(values)}",
            "uninstall all but one of them",
        )
    return values[0] if values else ""


def load(reference: str, base: type[T], what: str, failure: Failure) -> type[T]:
    """The class derived from *base* at *reference*, ``module:attribute``.

    Raises a *failure*, whose message uses *what*, if it cannot be loaded.
    """
    module, _, attribute = reference.partition(":")
    try:
        found: object = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # another package's module may raise anything
        raise failure(
            f"cannot load {what} ({reference}): {type(error).__name__}: {error}",
            "repair or reinstall the package that provides it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise failure(
            f"cannot load {what}: {reference} is not a class derived from {base.__name__}",
            "repair or reinstall the package that provides it",
        )
    return found


def _read(group: str) -> Iterator[EntryPoint]:
    """Raises ``_Unreadable``."""
    for finder in sys.meta_path:
        if finder is not machinery.PathFinder and hasattr(finder, "find_distributions"):
            raise _Unreadable
    seen = set()
    for folder in sys.path:
        for package in _packages(folder or "."):
            name = _distribution(package)
            if name not in seen:
                seen.add(name)
                yield from _parse(_text(os.path.join(folder, package)), group)


def _packages(folder: str) -> list[str]:
    """The folders of metadata in *folder*, in the order of the directory."""
    try:
        names = paths.names(folder)
    except NotADirectoryError as error:
        raise _Unreadable from error  # may be an archive
    except OSError:
        return []
    if os.path.basename(folder).lower().endswith(".egg"):
        raise _Unreadable
    return [name for name in names if name.lower().endswith(_ENDS)]


def _distribution(package: str) -> str:
    """The normalized name of a package (packaging.python.org, "Names and normalization")."""
    stem, end = os.path.splitext(package)
    if end not in _ENDS:
        raise _Unreadable
    name = stem.partition("-")[0].lower().replace(".", "_")
    while "__" in name:
        name = name.replace("__", "_")
    return name


def _text(package: str) -> str:
    try:
        with open(os.path.join(package, "entry_points.txt"), encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        return ""
    except UnicodeDecodeError as error:
        raise _Unreadable from error


def _parse(text: str, group: str) -> Iterator[EntryPoint]:
    """The *group* in the file (packaging.python.org, "Entry points specification")."""
    if group not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif line and not line.startswith("#") and section == group:
            name, equals, value = line.partition("=")
            if not equals or not _is_reference(value.strip()):
                raise _Unreadable
            yield EntryPoint(name.strip(), value.strip())


def _is_reference(value: str) -> bool:
    module, colon, attribute = value.partition(":")
    names = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(name.isidentifier() for name in names)
