"""One run of a mirror: its settings, its results, and operations on one entry."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from ephemeroot.linux.bounds import Meter
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.workshop import Workshop
from ephemeroot.mirror.likeness import lstat

COPY = "copy"
"""The name of a finished copy in a workshop."""


class MirrorRun:
    """Settings and results that a ``Mirror`` and its descents share.

    ``excluded`` are paths relative to the mirrored tree. They are left alone with everything under
    them; the directories that lead to them are kept, too, but their other entries are mirrored.
    With ``delete``, entries that the source lacks are removed. With ``content``, files that look
    alike (size, time, owner, mode, attributes) are compared byte by byte. An entry of the target
    that has changed after ``since`` (nanoseconds; 0 for no limit) is newer than any source: it
    stays and is listed in ``kept``.

    ``changed`` and ``removed`` list paths, ``copier`` counts bytes. ``skipped`` has path and reason
    of each entry that could not be copied; the others are copied. ``flattened`` are subvolumes that
    became directories.
    Raises ``OutOfBounds`` beyond the bounds of ``copier``, and ``OSError`` for errors that concern
    the whole tree (no space, read-only).
    """

    def __init__(
        self,
        *,
        excluded: Iterable[str] = (),
        delete: bool = True,
        content: bool = False,
        since: int = 0,
        copier: Copier | None = None,
    ) -> None:
        self.excluded = frozenset(path.strip("/") for path in excluded)
        self.leading = {
            path[:n] for path in self.excluded for n, char in enumerate(path) if char == "/"
        } | ({""} if self.excluded else set())
        self.delete = delete
        self.content = content
        self.since = since
        self.copier = Copier() if copier is None else copier
        self.meter = Meter(self.copier.meter.bounds)
        self.changed: list[str] = []
        self.removed: list[str] = []
        self.kept: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.flattened: list[str] = []
        self._protected: set[tuple[int, int]] = set()

    def copy(self, source: int, name: str, workshop: Workshop, path: str) -> None:
        """Copy the entry *name* of *source* into the *workshop*; entries in it may be skipped."""

        def skipped(inside: str, reason: str) -> None:
            self.skipped.append((f"{path}/{inside}".strip("/"), reason))

        self.copier.skipped = skipped
        self.copier.copy(source, name, workshop.fd, COPY, subvolume=name != ".")
        self.flattened += [f"{path}/{inside}".strip("/") for inside in self.copier.flattened]

    def arrive(
        self, workshop: Workshop, name: str, path: str, present: os.stat_result | None
    ) -> None:
        """Rename the copy in the *workshop* to *name*, instead of *present*."""
        if lstat(workshop.fd, COPY) is None:
            return  # the source became a socket or a mount point, which are not copied
        if present is None:
            try:
                workshop.deliver(COPY, name)
            except FileExistsError:
                pass  # created by another process; the next run compares it
        elif self.is_protected(present) or not workshop.replace(COPY, name, present):
            pass  # replaced by another process; the next run compares it
        self.changed.append(path)

    def is_protected(self, status: os.stat_result) -> bool:
        """Whether it is one of the excluded entries, also under another name."""
        return (status.st_dev, status.st_ino) in self._protected

    def is_newer(self, status: os.stat_result) -> bool:
        """Whether the target's entry was changed after ``since``."""
        return bool(self.since) and status.st_ctime_ns > self.since

    def skip(self, path: str, error: OSError) -> None:
        """Note that an entry could not be copied."""
        if error.errno == errno.EXDEV:
            self.skipped.append((path, "is a mount point"))
        else:
            self.skipped.append((path, error.strerror or str(error)))
