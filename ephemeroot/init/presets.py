"""Presets: paths that usually persist, chosen by the files of the machine.

The data files are read in the order of their names. A ``[[preset]]`` has a ``title``, optionally
a ``why``, a condition, and paths. ``directories`` and ``copies`` (files and links that are copied,
glob patterns) are proposed if they exist, directories also if systemd will create them for a
service with DynamicUser=; ``filled`` are proposed if they are not empty, ``files`` if they exist or
the preset is ``always``. If the preset names ``paths``, ``programs`` or ``units``, at least one of
them must exist.
"""

from __future__ import annotations

import glob
import os
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ephemeroot.linux import bounds, walk
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.machine import dynamic_users
from ephemeroot.machine.dynamic_users import DynamicDirectory

_PROGRAMS = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "bin", "sbin")
_UNITS = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system",
          "usr/local/lib/systemd/system")  # fmt: skip

KEYS = frozenset((
    "title", "why", "paths", "programs", "units", "directories", "filled", "files", "copies",
    "always",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """The paths of the machine that one preset proposes, parents before children."""

    title: str
    why: str
    directories: tuple[str, ...]
    files: tuple[str, ...]
    copies: tuple[str, ...]


def load() -> list[dict[str, Any]]:
    """All presets of the package, in the order of their files' names."""
    folder = files("ephemeroot").joinpath("presets")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".toml"))
    return [
        preset
        for name in names
        for preset in tomllib.loads(folder.joinpath(name).read_text())["preset"]
    ]


def found(root: str, presets: Iterable[dict[str, Any]]) -> list[Found]:
    """The paths that *presets* propose for the machine at the directory *root*; each path once."""
    taken: set[str] = set()
    results = []
    dynamic = _dynamic(root)
    to_come = {os.path.dirname(one.private) for one in dynamic.values()}
    for preset in presets:
        if not _fits(root, preset):
            continue
        always = bool(preset.get("always"))
        directories = [
            p for p in preset.get("directories", ()) if _is(root, p, stat.S_ISDIR) or p in to_come
        ]
        directories += [p for p in preset.get("filled", ()) if _is_filled(root, p)]
        directories = [dynamic[p].private if p in dynamic else p for p in directories]
        plain = [p for p in preset.get("files", ()) if always or _is(root, p, stat.S_ISREG)]
        copies = [p for pattern in preset.get("copies", ()) for p in _matching(root, pattern)]
        one = Found(
            preset["title"],
            preset.get("why", ""),
            _new(directories, taken),
            _new(plain, taken),
            _new(copies, taken),
        )
        if one.directories or one.files or one.copies:
            results.append(one)
    return results


def _dynamic(root: str) -> dict[str, DynamicDirectory]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return dynamic_users.directories(fd)
    finally:
        os.close(fd)


def _new(paths: list[str], taken: set[str]) -> tuple[str, ...]:
    """The *paths* that are not inside a directory proposed before; they are added to *taken*."""
    kept = []
    for path in sorted(set(paths)):
        parents = {path[:n] for n, c in enumerate(path) if c == "/" and n} | {path}
        if not parents & taken:
            kept.append(path)
            taken.add(path)
    return tuple(kept)


def _fits(root: str, preset: dict[str, Any]) -> bool:
    conditions = [
        *(path.lstrip("/") for path in preset.get("paths", ())),
        *(f"{folder}/{name}" for name in preset.get("programs", ()) for folder in _PROGRAMS),
        *(f"{folder}/{name}" for name in preset.get("units", ()) for folder in _UNITS),
    ]
    return not conditions or any(glob.glob(pattern, root_dir=root) for pattern in conditions)


def _is(root: str, path: str, kind: Any) -> bool:
    """Whether *path* itself, not the target of a link, is of that *kind*."""
    try:
        return bool(kind(os.lstat(os.path.join(root, path.lstrip("/"))).st_mode))
    except OSError:
        return False


def _is_filled(root: str, path: str) -> bool:
    """Whether the directory contains a file at any depth; packages bring empty directories."""
    if not _is(root, path, stat.S_ISDIR):
        return False
    try:
        top = os.open(os.path.join(root, path.lstrip("/")), os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        inside = walk.below(top, ".", Meter(bounds.attended()))
        return any(not stat.S_ISDIR(status.st_mode) for _, status in inside)
    except (OSError, OutOfBounds):  # unreadable or too large: do not propose it
        return False
    finally:
        os.close(top)


def _matching(root: str, pattern: str) -> list[str]:
    paths = [f"/{name}" for name in glob.glob(pattern.lstrip("/"), root_dir=root)]
    return [path for path in sorted(paths) if _is(root, path, _is_file_or_link)]


def _is_file_or_link(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)
