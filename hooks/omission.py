"""Omissions when a declared path is seeded: allowed ones, recorded ones, and refusals."""

from __future__ import annotations

import errno

from ephemeroot.errors import Refused
from ephemeroot.hooks import limits
from ephemeroot.linux import copying

_FULL = (errno.ENOSPC, errno.EDQUOT)


def of_the_whole() -> tuple[int, ...]:
    """Errors that are not about a single file: what a user puts into one causes none of these."""
    return copying.OF_THE_WHOLE + copying.OF_A_DISK


def takes_nothing(error: OSError) -> bool:
    """Whether *error* is not about a single file: the store, or a user's share of it, has no room
    left, it is read-only (the kernel makes it so when its disk fails), or a disk has failed.
    """
    return error.errno in of_the_whole()


def cannot_take(store: str, path: str, error: OSError) -> Refused:
    """The refusal of a wipe, because the store cannot take files that would be lost."""
    if error.errno == errno.EROFS:
        return Refused(
            f"the store {store} is read-only: cannot store {path}",
            "look for errors of its disk in the kernel log ('dmesg')",
        )
    if error.errno in _FULL:
        return Refused(
            f"the store {store} has no space for {path}",
            "free space on its volume: 'ephemeroot status' shows what fills it",
        )
    return Refused(
        f"{path} cannot be copied to the store {store}: {error.strerror}",
        "look for errors of the disks in the kernel log ('dmesg')",
    )


class Omission:
    """What of one declared *path* could not be seeded into the *store* as *source*.

    ``files`` are names relative to *path* with the reason for each (``limits.NAMED`` at most),
    ``count`` is their number. ``whole``: nothing was stored of *path*. ``target`` is the wiped
    target, ``root`` the name, without flags, of its old root that has all of it; ``retired``
    whether that root is known to have that name and to be marked ``.keep``.
    """

    __slots__ = (
        "count", "files", "path", "reason", "retired", "root", "source", "store", "target", "whole",
    )  # fmt: skip

    def __init__(self, path: str, store: str, source: str, reason: str = "") -> None:
        self.path = path
        self.store = store
        self.source = source
        self.reason = reason
        self.whole = bool(reason)
        self.files: list[tuple[str, str]] = []
        self.count = 0
        self.target = "/"
        self.root = ""
        self.retired = False

    def add(self, name: str, reason: str) -> None:
        """One more that was left out; *name* is relative to ``path``."""
        self.count += 1
        if len(self.files) < limits.NAMED:
            self.files.append((name, reason))

    def describe(self) -> str:
        """The omission in one line."""
        if self.whole:
            return f"{self.path} could not be seeded: {self.reason}"
        named = [f"{_show(name) or '.'} ({reason})" for name, reason in self.files]
        more = f" and {self.count - len(named)} more" if self.count > len(named) else ""
        return f"{self.path} was seeded without {', '.join(named)}{more}"

    def hint(self) -> str:
        """What the administrator can do about it."""
        if not self.root:
            return adopt_line(self.path)
        volume = "" if self.target == "/" else f" --volume {_quoted(self.target)}"
        names = [f"{self.path}/{name}".rstrip("/") for name, _ in self.files[:1]] or [self.path]
        return (
            f"the old root {self.root} is kept for it: run 'ephemeroot roots restore "
            f"{_quoted(names[0])} --from {self.root}', and when you have all you need, "
            f"'ephemeroot roots unkeep{volume} {self.root}'"
        )

    def to_json(self) -> dict[str, object]:
        """The record's form of it. Names that are not UTF-8 survive as surrogates."""
        return {
            "path": self.path,
            "source": self.source,
            "reason": self.reason,
            "whole": self.whole,
            "files": [list(file) for file in self.files],
            "count": self.count,
            "target": self.target,
            "root": self.root,
            "retired": self.retired,
        }


def adopt_line(path: str) -> str:
    """What to run for a declared *path* that a boot cannot seed."""
    return f"run 'ephemeroot adopt {_quoted(path)}'"


def _show(name: str) -> str:
    """*name* without what a terminal would obey: users choose the names of their files."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


def _quoted(path: str) -> str:
    """*path* as a word for a shell (shlex would import re)."""
    if all(c.isalnum() or c in "/._-+@%:," for c in path):
        return path
    return '"' + _show("".join(f"\\{c}" if c in '\\"$`' else c for c in path)) + '"'


class Allowance:
    """What working on one entry may cost, and what becomes of it where that is not enough.

    ``deadline`` is a time of ``time.monotonic()``, ``None`` for none. With ``omissions`` what
    cannot be seeded is added to it, and the rest is seeded; with ``partial``, for a user's
    entry, also where time or another bound runs out. Without, all of a path is seeded or nothing.
    """

    __slots__ = ("deadline", "omissions", "partial")

    def __init__(
        self,
        deadline: float | None = None,
        *,
        omissions: list[Omission] | None = None,
        partial: bool = False,
    ) -> None:
        self.deadline = deadline
        self.omissions = omissions
        self.partial = partial and omissions is not None
