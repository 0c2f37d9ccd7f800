"""The cache: folders with a key of their inputs, built once, outside of the source tree."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vm import folders
from vm.command import note
from vm.times import BUILDING, WAITING, times

_KEEP = 6


def digest(*parts: object) -> str:
    """A key for the content of `parts`.

    Text, numbers and nested sequences are compared by value, a `Path` by the content below it.

    Owners and times are left out: a fresh clone of the same sources must find the same entry.
    """
    state = hashlib.sha256()
    for part in parts:
        _feed(state, part)
    return state.hexdigest()[:20]


def _feed(state: hashlib._Hash, part: object) -> None:
    if isinstance(part, Path):
        for file in _files(part):
            stat = file.lstat()
            content = os.readlink(file).encode() if file.is_symlink() else file.read_bytes()
            name = file.relative_to(part) if file != part else Path(part.name)
            state.update(f"{name}\0{stat.st_mode:o}\0{len(content)}\0".encode())
            state.update(content)
    elif isinstance(part, bytes):
        state.update(f"bytes {len(part)}\0".encode() + part)
    elif isinstance(part, dict):
        _feed(state, sorted(part.items()))
    elif isinstance(part, list | tuple):
        state.update(f"list {len(part)}\0".encode())
        for item in part:
            _feed(state, item)
    else:
        state.update(f"{type(part).__name__} {part!r}\0".encode())


def _files(top: Path) -> list[Path]:
    if not top.is_dir() or top.is_symlink():
        return [top]
    found = (p for p in top.rglob("*") if "__pycache__" not in p.parts)
    return sorted(p for p in found if p.is_symlink() or p.is_file())


def build_of(entry: Path) -> str:
    """Identifies one building of an entry. `apply` creates new identifiers each time, so results
    that were made from an entry which was pruned and built again must not be combined with the new
    one.
    """
    locks = entry.parent.parent / "locks"
    try:
        return (locks / f"{entry.parent.name}-{entry.name}").read_text()
    except FileNotFoundError:  # not an entry of a cache
        return ""


class Cache:
    """A folder of entries `<kind>/<key>`.

    An existing entry is complete, because it is renamed into place.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._in_use: dict[Path, int] = {}

    @classmethod
    def from_environment(cls) -> Cache:
        """`$EPHEMEROOT_CACHE`, else `ephemeroot` in the user's cache folder."""
        named = os.environ.get("EPHEMEROOT_CACHE")
        if named:
            return cls(Path(named).absolute())
        base = os.environ.get("XDG_CACHE_HOME")
        return cls((Path(base) if base else Path.home() / ".cache") / "ephemeroot")

    def entry(
        self, kind: str, key: str, build: Callable[[Path], None], *, keep: int = _KEEP
    ) -> Path:
        """The folder of that kind and key, made by `build(folder)` if it does not exist yet.

        The entry stays locked (shared) until this process ends, so that no other run prunes it. The
        newest `keep` entries of the kind are kept.
        """
        path = self.root / kind / key
        if path in self._in_use:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock(path)
        with times.spent(WAITING):
            self._own(lock, path)
        if not path.is_dir():
            # Only the holder of the lock builds this key, so a leftover of that name belongs to a
            # run that has ended.
            for leftover in path.parent.glob(f".{key}.*"):
                folders.remove(leftover)
            begun = time.monotonic()
            note(f"building {kind} {key[:8]} …")
            fresh = folders.make(f".{key}.", path.parent)
            try:
                # users other than root run programs in these trees (apt's, for one)
                fresh.chmod(0o755)
                with times.spent(BUILDING):
                    build(fresh)
                os.ftruncate(lock, 0)
                os.pwrite(lock, os.urandom(16).hex().encode(), 0)
                fresh.rename(path)
            except BaseException:
                with suppress(OSError):
                    folders.remove(fresh)
                raise
            note(f"built {kind} {key[:8]} in {time.monotonic() - begun:.1f} s")
        os.utime(path)
        fcntl.flock(lock, fcntl.LOCK_SH)
        self._in_use[path] = lock
        self._prune(path.parent, keep)
        return path

    def _own(self, lock: int, path: Path) -> None:
        """Lock an entry: shared if it exists, otherwise exclusively, to build it."""
        while True:
            # Try shared first: an existing entry must be available although other runs use it, and
            # an entry that is being built becomes available when its builder changes to a shared
            # lock.
            fcntl.flock(lock, fcntl.LOCK_SH)
            if path.is_dir():
                return
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            # another run is in the same state: one of the two must release its lock
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_UN)
                time.sleep(random.uniform(0.01, 0.1))

    @contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """A folder on the cache's filesystem that is removed at the end."""
        base = self.root / "scratch"
        base.mkdir(parents=True, exist_ok=True)
        with folders.temporary(f"{purpose}-", base) as folder:
            yield folder

    def folder(self, name: str) -> Path:
        """A folder that is kept and never pruned (for example the disk of a developer)."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _lock(self, path: Path) -> int:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return os.open(
            locks / f"{path.parent.name}-{path.name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )

    def _prune(self, kind: Path, keep: int) -> None:
        entries = [p for p in kind.iterdir() if p.is_dir() and not p.name.startswith(".")]
        entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for old in entries[keep:]:
            if old in self._in_use:
                continue
            lock = self._lock(old)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another run uses it
            else:
                folders.remove(old)
            finally:
                os.close(lock)
