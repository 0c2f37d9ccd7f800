"""Bounds of the work that a user's content can cause, and counters for them."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _Number = TypeVar("_Number", int, float)


class OutOfBounds(Exception):
    """The work would exceed ``bound`` (the name of a field of ``Bounds``).

    ``path`` is the place, relative to the tree; empty for the tree itself.
    """

    def __init__(self, bound: str, limit: float, path: str) -> None:
        self.bound = bound
        self.path = path
        self.reason = _REASONS[bound].format(_amount(bound, limit))
        super().__init__(f"{path}: {self.reason}" if path else self.reason)


_REASONS = {
    "bytes_copied": "more than {} would have to be copied",
    "bytes_read": "more than {} would have to be read",
    "file_bytes": "more than {} of one file would have to be copied",
    "entries": "there are more than {} entries",
    "depth": "there are more than {} nested directories",
    "deadline": "the time limit is reached",
}


def _amount(bound: str, limit: float) -> str:
    number = int(limit)
    if bound not in ("bytes_copied", "bytes_read", "file_bytes"):
        return str(number)
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number and number % (1 << shift) == 0:
            return f"{number >> shift} {unit}"
    return f"{number} bytes"


class Bounds:
    """Limits of the work; ``None`` for no limit.

    ``bytes_copied`` and ``file_bytes`` (of a single file) are bytes that are written: shared
    extents and holes are free. ``bytes_read`` are the bytes that a comparison reads on both sides.
    ``entries`` are directory entries. ``depth`` is the number of nested directories, including the
    first. ``deadline`` is a time of ``time.monotonic()``.
    """

    __slots__ = ("bytes_copied", "bytes_read", "deadline", "depth", "entries", "file_bytes")

    def __init__(
        self,
        *,
        bytes_copied: int | None = None,
        bytes_read: int | None = None,
        file_bytes: int | None = None,
        entries: int | None = None,
        depth: int | None = None,
        deadline: float | None = None,
    ) -> None:
        self.bytes_copied = bytes_copied
        self.bytes_read = bytes_read
        self.file_bytes = file_bytes
        self.entries = entries
        self.depth = depth
        self.deadline = deadline


def attended() -> Bounds:
    """The bounds for one path in a verb that an administrator runs, watches and can interrupt.
    docs/persistence.md has these numbers.
    """
    return Bounds(
        bytes_read=1 << 42, entries=50_000_000, depth=16_384, deadline=time.monotonic() + 86_400
    )


def unattended() -> Bounds:
    """The bounds for one path in a program that runs unattended: the next paths wait for it."""
    return Bounds(
        bytes_copied=1 << 36, bytes_read=1 << 36, entries=5_000_000, depth=16_384,
        deadline=time.monotonic() + 600,
    )  # fmt: skip


def unattended_in_all() -> Bounds:
    """The bounds for all paths of such a program together; root's own paths may use all of it."""
    return Bounds(
        bytes_copied=1 << 38, bytes_read=1 << 38, entries=20_000_000,
        deadline=time.monotonic() + 1800,
    )  # fmt: skip


class Budget:
    """Bounds of a whole run (``bytes_copied``, ``bytes_read``, ``entries`` and ``deadline``) that
    are divided among its parts. A part leaves its unused share to the next ones.
    """

    __slots__ = ("left",)

    def __init__(self, whole: Bounds) -> None:
        self.left = whole

    def share(self, waiting: int) -> Bounds:
        """The share of the next of *waiting* parts: an equal part of the rest."""
        left = self.left
        deadline = left.deadline
        if deadline is not None:
            now = time.monotonic()
            deadline = now + max(deadline - now, 0.0) / waiting
        return Bounds(
            bytes_copied=_part(left.bytes_copied, waiting),
            bytes_read=_part(left.bytes_read, waiting),
            entries=_part(left.entries, waiting),
            deadline=deadline,
        )

    def within(self, bounds: Bounds) -> Bounds:
        """*bounds*, limited to the rest."""
        left = self.left
        return Bounds(
            bytes_copied=_least(bounds.bytes_copied, left.bytes_copied),
            bytes_read=_least(bounds.bytes_read, left.bytes_read),
            file_bytes=bounds.file_bytes,
            entries=_least(bounds.entries, left.entries),
            depth=bounds.depth,
            deadline=_least(bounds.deadline, left.deadline),
        )

    def spend(self, meter: Meter) -> None:
        """Subtract the counters of *meter*."""
        left = self.left
        self.left = Bounds(
            bytes_copied=_less(left.bytes_copied, meter.copied),
            bytes_read=_less(left.bytes_read, meter.read),
            entries=_less(left.entries, meter.entries),
            deadline=left.deadline,
        )


def _part(whole: int | None, count: int) -> int | None:
    return None if whole is None else whole // count


def _least(one: _Number | None, other: _Number | None) -> _Number | None:
    given = [limit for limit in (one, other) if limit is not None]
    return min(given, default=None)


def _less(whole: int | None, spent: int) -> int | None:
    return None if whole is None else max(whole - spent, 0)


class Meter:
    """Counts work against ``bounds``. Each method raises ``OutOfBounds`` if it would exceed them;
    refused work is not counted.
    """

    __slots__ = ("bounds", "copied", "entries", "read", "reserved")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.copied = self.read = self.reserved = self.entries = 0

    def check_time(self, path: str) -> None:
        """Raise ``OutOfBounds`` after the deadline."""
        deadline = self.bounds.deadline
        if deadline is not None and time.monotonic() >= deadline:
            raise OutOfBounds("deadline", deadline, path)

    def check_depth(self, depth: int, path: str) -> None:
        """Raise ``OutOfBounds`` if *depth* exceeds the bound."""
        limit = self.bounds.depth
        if limit is not None and depth > limit:
            raise OutOfBounds("depth", limit, path)

    def count_entry(self, path: str) -> None:
        """Count one more entry."""
        limit = self.bounds.entries
        if limit is not None and self.entries >= limit:
            raise OutOfBounds("entries", limit, path)
        self.entries += 1

    def count_read(self, size: int, path: str) -> None:
        """Count *size* bytes before they are read."""
        self.check_time(path)
        limit = self.bounds.bytes_read
        if limit is not None and self.read + size > limit:
            raise OutOfBounds("bytes_read", limit, path)
        self.read += size

    def require_copy(self, size: int, of_file: int, path: str) -> None:
        """Raise ``OutOfBounds`` if *size* more bytes must not be copied; *of_file* bytes of the
        same file are already copied.
        """
        self.check_time(path)
        limit = self.bounds.file_bytes
        if limit is not None and of_file + size > limit:
            raise OutOfBounds("file_bytes", limit, path)
        limit = self.bounds.bytes_copied
        if limit is not None and self.copied + size > limit:
            raise OutOfBounds("bytes_copied", limit, path)

    def may_reserve(self, size: int) -> bool:
        """Count *size* preallocated bytes; return false if the bounds do not allow them."""
        limit = self.bounds.bytes_copied
        if limit is not None and self.copied + self.reserved + size > limit:
            return False
        self.reserved += size
        return True
