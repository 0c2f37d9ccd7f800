"""Processes with files open for writing below a path (proc_pid_fd(5), proc_pid_fdinfo(5)).

They would continue to write to the root, in files that the bind hides.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.linux import values

PROC = Path("/proc")

_FLAGS = re.compile(r"^flags:\s*([0-7]+)$", re.MULTILINE)
_UNIT = re.compile(r"/([^/]+\.(?:service|scope))(?:/|$)")


@dataclass(frozen=True, slots=True)
class Writer:
    """A process, its systemd unit (may be empty), and its first file below the path."""

    pid: int
    name: str
    unit: str
    path: str

    def __str__(self) -> str:
        unit = f" of {self.unit}" if self.unit else ""
        return f"{self.name}{unit} (process {self.pid}) writes to {self.path}"


def below(path: str) -> list[Writer]:
    """The processes with a regular file at or below *path* open for writing."""
    found = []
    for folder in sorted(PROC.iterdir(), key=lambda folder: folder.name):
        number = values.number(folder.name)
        if number is None or number == os.getpid():
            continue
        opened = _opened(folder, path)
        if opened:
            found.append(Writer(number, _name(folder), _unit(folder), opened))
    return found


def _opened(process: Path, path: str) -> str:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # it has ended, or this user may not read it
        return ""
    for descriptor in descriptors:
        try:
            target = os.readlink(descriptor)
            if target != path and not target.startswith(f"{path}/"):
                continue
            flags = _FLAGS.search((process / "fdinfo" / descriptor.name).read_text())
            writes = flags is not None and int(flags.group(1), 8) & os.O_ACCMODE != os.O_RDONLY
            if writes and stat.S_ISREG(descriptor.stat().st_mode):
                return target
        except OSError:
            continue
    return ""


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return "a process"


def _unit(process: Path) -> str:
    try:
        units = _UNIT.findall((process / "cgroup").read_text())
    except OSError:
        return ""
    return str(units[-1]) if units else ""
