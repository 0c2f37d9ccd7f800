"""Ordinary tasks, and the verbs that they need on a machine with an ephemeral root.

``status --help``, the manual and the guide have the same table (``tests/status/test_tasks.py``).
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One task. ``needs`` is ``nothing``, or the verbs that it needs; ``how`` has the commands."""

    name: str
    needs: str
    how: str


TASKS = (
    Task(
        "install, upgrade or remove a package",
        "base run",
        "ephemeroot base run -- apt install NAME, then reboot",
    ),
    Task(
        "try a package until the next boot",
        "nothing",
        "apt install NAME on the running root",
    ),
    Task(
        "change a file in /etc that persists",
        "nothing",
        "edit it; ephemeroot where FILE shows whether it persists",
    ),
    Task(
        "change another file in /etc",
        "adopt, apply",
        "edit it, then ephemeroot adopt --apply FILE; or change it in ephemeroot base run",
    ),
    Task(
        "enable or disable a unit",
        "nothing",
        "systemctl enable UNIT, if /etc/systemd/system is declared as init proposes; else in "
        "ephemeroot base run",
    ),
    Task(
        "add a user or change a password",
        "nothing",
        "useradd and passwd, if /etc/passwd, shadow, group and gshadow are declared as init "
        "proposes; the home persists if /home does",
    ),
    Task(
        "change the host name, time zone or language",
        "nothing",
        "hostnamectl, timedatectl or localectl, if their files are declared as init proposes; "
        "else ephemeroot adopt --apply FILE",
    ),
    Task(
        "change /etc/fstab",
        "base run, apply",
        "the same change in ephemeroot base run -- editor /etc/fstab and in the running root; "
        "ephemeroot apply if the initramfs mounts the volume",
    ),
    Task(
        "do one of these in the installed root below an overlay",
        "next-boot",
        "ephemeroot next-boot keep, then reboot; change the root as usual, and reboot again",
    ),
    Task(
        "keep something that exists",
        "adopt, apply",
        "ephemeroot adopt --apply PATH",
    ),
    Task(
        "change which paths persist",
        "apply",
        "ephemeroot edit, then ephemeroot apply",
    ),
    Task(
        "make room on the disk",
        "roots",
        "ephemeroot status names what fills it; ephemeroot roots list, prune and delete",
    ),
)


def text() -> str:
    """The table for a terminal of 80 columns."""
    lines = ["ordinary tasks, and the commands for them:"]
    for task in TASKS:
        lines.append(f"  {task.name}: {task.needs}")
        lines += textwrap.wrap(task.how, 78, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
