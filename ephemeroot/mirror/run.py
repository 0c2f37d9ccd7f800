"""One run of a mirror: how it goes, what it has done, and what may be done to one entry."""

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
    """What a ``Mirror`` and its descents share.

    ``excluded`` are paths, relative to what is mirrored, that are left alone with everything below
    them, as are the directories that lead to them, except for what else is in those. With
    ``delete`` what the source does not have is removed. With ``content`` files that look alike
    (size, time, owner, mode, attributes) are compared byte by byte. Every change in the target
    after ``since`` (nanoseconds, 0: no such time) is newer than any source: it stays and is listed
    in ``kept``.

    ``changed`` and ``removed`` list paths as they are done, ``copier`` counts bytes. ``skipped``
    has the path and the reason of each entry that could not be copied; the others are copied.
    ``flattened`` are subvolumes that became directories.
    Raises ``OutOfBounds`` for more than the bounds of ``copier`` allow, and ``OSError`` for what
    concerns the whole (no space, read-only).
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
        """Give the copy in the *workshop* its *name*, instead of *present*."""
        if lstat(workshop.fd, COPY) is None:
            return  # it was a socket by then, or a mount point
        if present is None:
            try:
                workshop.deliver(COPY, name)
            except FileExistsError:
                pass  # made meanwhile; the next run compares it
        elif self.is_protected(present) or not workshop.replace(COPY, name, present):
            pass  # replaced meanwhile; the next run compares it
        self.changed.append(path)

    def is_protected(self, status: os.stat_result) -> bool:
        """Whether it is one of the excluded entries, under whatever name."""
        return (status.st_dev, status.st_ino) in self._protected

    def is_newer(self, status: os.stat_result) -> bool:
        """Whether the target's entry was changed after ``since``."""
        return bool(self.since) and status.st_ctime_ns > self.since

    def skip(self, path: str, error: OSError) -> None:
        """Note that an entry could not be copied."""
        if error.errno == errno.EXDEV:
            self.skipped.append((path, "it is a mount point"))
        else:
            self.skipped.append((path, error.strerror or str(error)))
