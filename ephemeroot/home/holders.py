"""The processes that keep a mount busy (proc_pid_fd(5), proc_pid_maps(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ephemeroot.linux import paths, values

PROC = "/proc"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that uses a file in a mount; ``how`` completes "which …"."""

    pid: int
    name: str
    how: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}), which {self.how}"


def of(point: str) -> list[Holder]:
    """The processes that use a file at or under *point*, as far as this user can see them.

    Processes of other users, and one's own setuid processes, are not visible.
    """
    found = []
    numbers = (values.number(name) for name in paths.names(PROC))
    for pid in sorted(number for number in numbers if number is not None):
        how = next(_uses(f"{PROC}/{pid}", point), None)
        if how is not None:
            found.append(Holder(pid, _name(pid), how))
    return found


def words(holders: list[Holder]) -> str:
    """*holders* for a message."""
    if not holders:
        return "a process of another user"
    return "; ".join(str(holder) for holder in holders)


def _uses(process: str, point: str) -> Iterator[str]:
    """How the process uses files under *point*. It does not access the files themselves, which
    would block on a filesystem that hangs.
    """
    for link, how in (("cwd", "works in"), ("root", "has its root in"), ("exe", "runs")):
        if path := _below(_readlink(f"{process}/{link}"), point):
            yield f"{how} {path}"
    for name in _names(f"{process}/fd"):
        if path := _below(_readlink(f"{process}/fd/{name}"), point):
            yield f"has opened {path}"
    for path in _mapped(process):
        if _below(path, point):
            yield f"has mapped {path}"


def _below(path: str, point: str) -> str:
    return path if path == point or path.startswith(f"{point}/") else ""


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _names(directory: str) -> list[str]:
    try:
        return paths.names(directory)
    except OSError:
        return []


def _mapped(process: str) -> Iterator[str]:
    try:
        with open(f"{process}/maps", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        # address, permissions, offset, device, inode, path
        fields = line.split(maxsplit=5)
        if len(fields) == 6:
            yield fields[5]


def _name(pid: int) -> str:
    try:
        with open(f"{PROC}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "a process"
