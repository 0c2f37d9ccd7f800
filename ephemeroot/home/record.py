"""The record of mounts and links in a home, by which a later run undoes exactly those.

The record is not trusted: it only names candidates, and ``view.py`` proves each of them. The file
may come from a user, a backup or another home; paths outside of the home are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ephemeroot.config.syntax import clean
from ephemeroot.errors import Damaged
from ephemeroot.home.user import User
from ephemeroot.linux import documents, paths

FORMAT = "ephemeroot-home-record"
VERSION = 1

LARGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that we made of ``source``: its ``device`` (major:minor) in the boot ``boot``, and
    ``fsname``, its source in the mount table.
    """

    source: str
    boot: str
    device: str
    fsname: str


@dataclass(slots=True)
class Record:
    """Mounts and links by their paths in the home; directories with their inode numbers."""

    mounts: dict[str, Mounted] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    directories: dict[str, int] = field(default_factory=dict)

    def sources(self) -> dict[str, str]:
        """The sources of all mounts and links, by their paths in the home."""
        return {**self.links, **{path: mounted.source for path, mounted in self.mounts.items()}}

    def add(self, other: Record) -> None:
        """Add the entries that only *other* has."""
        self.mounts = {**other.mounts, **self.mounts}
        self.links = {**other.links, **self.links}
        self.directories = {**other.directories, **self.directories}

    def dump(self) -> bytes:
        """The record as JSON."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "mounts": [
                {"target": path, "source": m.source, "boot": m.boot, "device": m.device,
                 "fsname": m.fsname}
                for path, m in sorted(self.mounts.items())
            ],
            "links": [{"target": t, "source": s} for t, s in sorted(self.links.items())],
            "directories": [
                {"path": path, "inode": inode} for path, inode in sorted(self.directories.items())
            ],
        }  # fmt: skip
        return (json.dumps(content, indent=1) + "\n").encode()


def parse(raw: bytes, file: str, home: str) -> Record:
    """The record in *raw*, read from *file*; paths outside of *home* are ignored.

    Raises ``Damaged`` if it is not valid, or has an unsupported version.
    """
    try:
        content = documents.parse(raw)
    except ValueError as error:
        raise Damaged(f"the record {file} is damaged: {error}", f"run 'rm {file}'") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Damaged(f"the record {file} is damaged: it was not written by ephemeroot")
    if content.get("version") != VERSION:
        raise Damaged(f"the record {file} is of the unknown version {content.get('version')!r}")
    record = Record()
    for item in _items(content, "mounts", ("target", "source", "boot", "device", "fsname")):
        mounted = Mounted(item["source"], item["boot"], item["device"], item["fsname"])
        record.mounts[item["target"]] = mounted
    for item in _items(content, "links", ("target", "source")):
        record.links[item["target"]] = item["source"]
    for item in _items(content, "directories", ("path",)):
        if type(item.get("inode")) is int:
            record.directories[item["path"]] = item["inode"]
    for known in (record.mounts, record.links, record.directories):
        for path in [path for path in known if not _is_inside(path, home)]:
            del known[path]
    return record


def _items(content: dict[str, Any], key: str, strings: Iterable[str]) -> list[dict[str, Any]]:
    listed = content.get(key)
    return [
        item
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict) and all(isinstance(item.get(name), str) for name in strings)
    ]


def _is_inside(path: str, home: str) -> bool:
    return path.startswith(f"{home}/") and os.path.normpath(path) == path and "\0" not in path


BEING_MADE = 0
"""The recorded inode number of a directory that is not made yet: a run may be killed after it has
made one. No file has this number.
"""


class Keeper:
    """The file of the record during one run.

    It may be in a directory that the user has declared, such as ``.local``. A file under the mount
    point would prevent the next mount, so the record is then written into the store's directory.
    """

    def __init__(self, user: User, sources: dict[str, str]) -> None:
        """*sources* are the declared entries' sources by target."""
        self.user = user
        self.sources = sources
        self.damage: list[str] = []
        self.record = Record()
        self._known: list[str] = []
        for file in (user.state, self._place(self._covering(sources))):
            self._load(file)

    def expect(self, sources: dict[str, str], *, to_stay: bool) -> None:
        """Record which mounts and links exist: the record's file may be in one of them. *to_stay*:
        they are treated as declared.
        """
        self._known.append(self._place(self._covering(sources)))
        if to_stay:
            self.sources = {**sources, **self.sources}

    def _load(self, file: str) -> None:
        if any(_is_same(file, known) for known in self._known):
            return
        try:
            raw = paths.read(file, LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.damage.append(f"cannot read the record {file}: {error.strerror}")
            return
        self._known.append(file)
        try:
            found = parse(raw, file, self.user.home)
        except Damaged as error:
            self.damage.append(error.message)
            return
        for path in [p for p, inode in found.directories.items() if inode == BEING_MADE]:
            made = _inode(path)
            if made is None:
                del found.directories[path]
            else:
                found.directories[path] = made
        self.record.add(found)

    def _covering(self, sources: dict[str, str]) -> tuple[str, str] | None:
        """The target that contains the record's file, and its source."""
        covering = [target for target in sources if clean.is_below(self.user.state, target)]
        target = max(covering, key=len, default="")
        return (target, sources[target]) if target else None

    def _place(self, covering: tuple[str, str] | None) -> str:
        if covering is None:
            return self.user.state
        target, source = covering
        return source + self.user.state[len(target) :]

    def save(self, *, without: Iterable[str] = (), is_last: bool = False) -> None:
        """Write the record, or remove its file if it is empty.

        *without* are declared targets that cannot be put in place. If it *is_last*, empty
        directories that were created for the file are removed with it. Raises ``OSError``.
        """
        failed = set(without)
        covering = self._covering({t: s for t, s in self.sources.items() if t not in failed})
        if covering is not None and not os.path.isdir(covering[1]):
            if not is_last:
                return  # the store's directories come first, with their proper modes
            covering = None
        place = self._place(covering)
        if self._is_empty():
            _remove(place, self.user.home)
        else:
            self._make_directories(os.path.dirname(place))
            paths.write_atomically(place, self.record.dump(), 0o600)
        for other in [self.user.state, *self._known]:
            if other != place and not _is_same(other, place):
                _remove(other, self.user.home)
        if covering is not None:
            # The target will be mounted, or become a link: our file must not remain in it.
            self._remove_directories(below=covering[0])
        elif is_last and self._is_empty():
            self._remove_directories(below=self.user.home)

    def _is_empty(self) -> bool:
        """Whether the record has only the directories of its own file."""
        others = len(self._own_directories()) < len(self.record.directories)
        return not (self.record.mounts or self.record.links or others)

    def _own_directories(self) -> list[str]:
        """Our directories that contain the record's file, the deepest first."""
        own = [path for path in self.record.directories if clean.is_below(self.user.state, path)]
        return sorted(own, key=len, reverse=True)

    def _make_directories(self, directory: str) -> None:
        missing = []
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            os.mkdir(path, 0o700)
            if clean.is_below(self.user.state, path) and _is_inside(path, self.user.home):
                self.record.directories[path] = os.stat(path).st_ino

    def _remove_directories(self, *, below: str) -> None:
        for path in self._own_directories():
            if path != below and clean.is_below(path, below):
                if self.record.directories[path] == _inode(path) and _rmdir(path):
                    del self.record.directories[path]


def _remove(file: str, home: str) -> None:
    """Remove *file* if it is a record."""
    try:
        parse(paths.read(file, LARGEST), file, home)
        os.unlink(file)
        os.unlink(f"{file}.new")  # of an interrupted run
    except (OSError, Damaged):
        return  # missing, or not a record


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def _is_same(one: str, other: str) -> bool:
    """Whether both names are one file. bindfs shows the file's inode number on another device."""
    if one == other:
        return True
    try:
        if os.path.samefile(one, other):
            return True
        if os.stat(one).st_ino != os.stat(other).st_ino:
            return False
        return paths.read(one, LARGEST) == paths.read(other, LARGEST)
    except OSError:
        return False
