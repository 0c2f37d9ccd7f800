"""The parallel walk through a source and a target tree of any depth."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from types import TracebackType

from ephemeroot.linux import inode_flags, paths, workshop
from ephemeroot.linux.bounds import OutOfBounds
from ephemeroot.linux.copying import OF_THE_WHOLE
from ephemeroot.linux.walk import Walk
from ephemeroot.linux.workshop import PREFIX, Workshop, is_certain
from ephemeroot.mirror import likeness
from ephemeroot.mirror.likeness import lstat
from ephemeroot.mirror.run import COPY, MirrorRun


@dataclass(slots=True)
class _Level:
    """One directory of the walk. ``certain``: its attributes may be changed in place, see
    ``workshop.is_certain``. ``lifted`` are the inode flags that were cleared on the target.
    """

    names: frozenset[str]
    pending: list[str]
    certain: bool
    workshop: Workshop | None = None
    lifted: int = 0

    def close(self) -> None:
        if self.workshop is not None:
            self.workshop.close()
            self.workshop = None


class Descent:
    """Makes the open directory *target* like the open *source*, with the settings of *mirror*.

    *certain*: no user can have exchanged *target*. Use it in a ``with`` statement.
    """

    def __init__(self, mirror: MirrorRun, source: int, target: int, *, certain: bool) -> None:
        self.mirror = mirror
        self.here = Walk(source, ".")
        try:
            self.there = Walk(target, ".")
        except BaseException:
            self.here.close()
            raise
        self.levels: list[_Level] = []
        self._certain = certain

    def __enter__(self) -> Descent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        while self.levels:
            self.levels.pop().close()
        self.here.close()
        self.there.close()

    def run(self) -> None:
        """Walk both trees. Raises the errors of ``MirrorRun``."""
        self.levels.append(self._level(certain=self._certain))
        while True:
            level = self.levels[-1]
            if level.pending:
                self._one(level, level.pending.pop())
                continue
            self._finish(level)
            if len(self.levels) == 1:
                return
            self._leave()

    def _path(self, name: str = "") -> str:
        """The path relative to the top of the walk, without the leading ``./``."""
        inside = self.here.path.partition("/")[2]
        return f"{inside}/{name}".strip("/") if name else inside

    def _level(self, *, certain: bool) -> _Level:
        names = []
        with paths.entries(self.here.fd) as found:
            for entry in found:
                self.mirror.meter.count_entry(self._path())
                names.append(entry.name)
        return _Level(frozenset(names), sorted(names, reverse=True), certain)

    def _one(self, level: _Level, name: str) -> None:
        path = self._path(name)
        self.mirror.meter.check_time(path)
        if path in self.mirror.excluded:
            return
        try:
            status = os.stat(name, dir_fd=self.here.fd, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                return
            if stat.S_ISDIR(status.st_mode):
                self._enter(level, name, status)
                return
            compare = likeness.Entry(self.mirror.meter, content=self.mirror.content)
            if not compare.same(self.here.fd, self.there.fd, name, path):
                self._replace(level, name)
        except FileNotFoundError:
            return  # deleted since it was listed
        except OutOfBounds as reason:
            if reason.bound not in ("file_bytes", "depth"):
                raise
            self.mirror.skipped.append((path, reason.reason))
        except OSError as error:
            if error.errno in OF_THE_WHOLE:
                raise
            self.mirror.skip(path, error)

    def _enter(self, level: _Level, name: str, status: os.stat_result) -> None:
        path = self._path(name)
        self.mirror.meter.check_depth(self.here.depth + 1, path)
        present = lstat(self.there.fd, name)
        if present is not None and not stat.S_ISDIR(present.st_mode):
            self._remove(level, name, path)
            present = lstat(self.there.fd, name)
            if present is not None:
                return  # newer, and kept
        leads = path in self.mirror.leading
        if present is None or not (leads or is_certain(self.there.fd, present, status.st_uid)):
            if not leads:
                self._replace(level, name)
                return
            shop = self._workshop(level)
            os.mkdir(COPY, 0o700, dir_fd=shop.fd)
            self.mirror.arrive(shop, name, path, None)
        self.here.enter(name)
        depth = self.there.depth
        try:
            owner = os.fstat(self.here.fd).st_uid
            parent = os.dup(self.there.fd)
            try:
                self.there.enter(name)
                certain = is_certain(parent, os.fstat(self.there.fd), owner)
            finally:
                os.close(parent)
        except OSError:
            self.here.climb()
            if self.there.depth > depth:
                self.there.climb()
            raise
        try:
            self.levels.append(self._level(certain=certain))
        except BaseException:
            self.here.climb()
            self.there.climb()
            raise

    def _finish(self, level: _Level) -> None:
        path = self._path()
        for name in self._extra(level):
            if level.workshop is not None and name == level.workshop.name:
                continue
            left_over = name.startswith(PREFIX) and workshop.sweep_one(self.there.fd, name)
            if self.mirror.delete and not left_over:
                self._remove(level, name, self._path(name))
        level.close()
        old, new = self.here.fd, self.there.fd
        if likeness.same_metadata(old, new):
            return
        if level.certain:
            likeness.copy_metadata(old, new, lambda _, error: self.mirror.skip(path, error))
            return
        inode_flags.set_last(new, level.lifted & inode_flags.LAST)
        if not likeness.same_owner(old, new):
            reason = "owner not changed: a user could replace the directory"
            self.mirror.skipped.append((path, reason))

    def _extra(self, level: _Level) -> list[str]:
        """Entries of the target that the source lacks; counts each of them."""
        names = []
        os.lseek(self.there.fd, 0, os.SEEK_SET)  # see paths.names
        with paths.entries(self.there.fd) as found:
            for entry in found:
                if entry.name not in level.names:
                    self.mirror.meter.count_entry(self._path(entry.name))
                    names.append(entry.name)
        return sorted(names)

    def _leave(self) -> None:
        """Go up on both sides, further if another process has moved directories on one of them."""
        path = self._path()
        depths = []
        for walk in (self.here, self.there):
            walk.climb()
            depths.append(walk.depth)
        while self.here.depth > min(depths):
            self.here.climb()
        while self.there.depth > min(depths):
            self.there.climb()
        if len(self.levels) - min(depths) > 1:
            self.mirror.skipped.append((path, "moved by another process during the copy"))
        while len(self.levels) > min(depths):
            self.levels.pop().close()

    def _replace(self, level: _Level, name: str) -> None:
        """Finish a copy in the workshop, then rename it: the name never has half a copy."""
        path = self._path(name)
        present = lstat(self.there.fd, name)
        if present is not None and self.mirror.is_newer(present):
            self.mirror.kept.append(path)
            return
        shop = self._workshop(level)
        try:
            self.mirror.copy(self.here.fd, name, shop, path)
            self.mirror.arrive(shop, name, path, present)
        finally:
            shop.clear()

    def _remove(self, level: _Level, name: str, path: str) -> None:
        mirror = self.mirror
        if path in mirror.excluded or path in mirror.leading:
            return
        present = lstat(self.there.fd, name)
        if present is None or mirror.is_protected(present):
            return
        if mirror.is_newer(present):
            mirror.kept.append(path)
            return
        shop = self._workshop(level)
        try:
            if shop.take(name, present):
                mirror.removed.append(path)
            shop.clear()
        except OSError as error:
            if error.errno in OF_THE_WHOLE:
                raise
            mirror.skip(path, error)

    def _workshop(self, level: _Level) -> Workshop:
        if level.workshop is None:
            level.lifted |= inode_flags.flags(self.there.fd) or 0
            inode_flags.clear_last(self.there.fd)
            level.workshop = Workshop(self.there.fd)
        return level.workshop
