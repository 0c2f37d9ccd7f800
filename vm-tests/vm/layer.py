"""Layers: small trees on top of a Debian, with the harness's files, the wheel, a configuration."""

from __future__ import annotations

import configparser
import os
import shutil
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vm.cache import Cache, digest

_PURELIB = "usr/lib/python3/dist-packages"

_SCRIPT = """#!/usr/bin/python3
import sys
from {module} import {function}
sys.exit({function}())
"""


@dataclass(frozen=True)
class File:
    """A file with all its properties: `content`, permission bits, numeric owner and group."""

    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


Content = str | bytes | File


def file(content: Content) -> File:
    """A plain file of root with that content; a File stays unchanged."""
    if isinstance(content, File):
        return content
    return File(content.encode() if isinstance(content, str) else content)


def make(
    cache: Cache,
    *,
    files: Mapping[str, Content] | None = None,
    links: Mapping[str, str] | None = None,
    folders: Mapping[str, Path] | None = None,
    wheel: Path | None = None,
) -> Path:
    """A layer with all of these.

    Names are relative to `/` and must not contain links (`usr/bin/x`, not `bin/x`).

    `folders` maps a path in the tree to a folder of the source tree whose content is copied there;
    modes are kept, owners become root. `wheel` is installed for Debian's python3, its console
    scripts in /usr/bin.
    """
    members = _members(wheel) if wheel is not None else {}
    made = {name: file(content) for name, content in {**members, **(files or {})}.items()}
    key = digest(
        Path(__file__),
        sorted((name, repr(one)) for name, one in made.items()),
        dict(links or {}),
        [(where, source) for where, source in sorted((folders or {}).items())],
    )

    def build(folder: Path) -> None:
        for where, source in (folders or {}).items():
            _copy(source, folder / where)
        for name, one in made.items():
            write(folder, name, one)
        for name, target in (links or {}).items():
            path = folder / _relative(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)

    return cache.entry("layer", key, build, keep=60)


def write(root: Path, name: str, content: Content) -> None:
    """Write one file below `root`, replacing an existing one, with missing parents created as
    root's 0755.
    """
    one = file(content)
    path = root / _relative(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(one.content)
    os.chown(path, one.uid, one.gid)
    path.chmod(one.mode)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not a name below the root of a tree")
    return path


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for top, folders, names in os.walk(source):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        here = target / Path(top).relative_to(source)
        here.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(Path(top, name), here / name, follow_symlinks=False)
            # A clone may have been made under any umask; git itself records only one bit.
            if not (here / name).is_symlink():
                (here / name).chmod(0o755 if os.access(Path(top, name), os.X_OK) else 0o644)


def _members(wheel: Path) -> dict[str, Content]:
    """The path of each file of a wheel in a Debian tree; times inside the archive do not matter."""
    members: dict[str, Content] = {}
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            mode = 0o755 if (info.external_attr >> 16) & stat.S_IXUSR else 0o644
            members[_place(info.filename)] = File(archive.read(info), mode)
            if info.filename.endswith(".dist-info/entry_points.txt"):
                members.update(_scripts(archive.read(info).decode()))
    return members


def _place(member: str) -> str:
    # The wheel specification: NAME.data/<scheme>/… goes to that scheme's folder.
    first, _, rest = member.partition("/")
    if not first.endswith(".data"):
        return f"{_PURELIB}/{member}"
    scheme, _, below = rest.partition("/")
    return {
        "purelib": f"{_PURELIB}/",
        "platlib": f"{_PURELIB}/",
        "data": "usr/",
        "scripts": "usr/bin/",
    }[scheme] + below


def _scripts(entry_points: str) -> dict[str, Content]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(entry_points)
    scripts: dict[str, Content] = {}
    if parser.has_section("console_scripts"):
        for name, target in parser.items("console_scripts"):
            module, _, function = target.partition(":")
            scripts[f"usr/bin/{name}"] = File(
                _SCRIPT.format(module=module, function=function).encode(), 0o755
            )
    return scripts
