"""Declared paths compared with what the live root has there: a path's type is part of its value."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence

from ephemeroot.config import clean
from ephemeroot.config.declared import Declared
from ephemeroot.config.machine import Machine
from ephemeroot.config.problem import Problem


def check(
    machine: Machine, declared: Sequence[Declared], homes: Collection[str], problems: list[Problem]
) -> None:
    """Note each declared path that the live root has as something else. *homes* are users' homes,
    in which a file may be a directory.
    """
    if machine.another:
        return
    for entry in declared:
        kind = _kind(machine, entry)
        in_home = any(clean.is_below(entry.path, home) for home in homes)
        if entry.is_directory and kind == stat.S_IFREG:
            reason = f"{entry.path} is declared as a directory, and is a file"
            problems.append(Problem.at(entry.place, reason, "declare it in files"))
        elif not entry.is_directory and kind == stat.S_IFDIR and not in_home:
            reason = f"{entry.path} is declared as a file, and is a directory"
            problems.append(Problem.at(entry.place, reason, "declare it in directories"))
        elif not entry.is_directory and kind == stat.S_IFLNK and entry.method != "copy":
            _propose_copy(machine, entry, problems)
        elif entry.method == "symlink" and kind in (stat.S_IFDIR, stat.S_IFREG):
            what = "directory" if kind == stat.S_IFDIR else "file"
            problems.append(
                Problem.at(
                    entry.place,
                    f"the live root has a {what} at {entry.path}, which a link does not replace",
                    f'the boot binds it if the new root has it; set method = "bind", or remove '
                    f"the {what} from the base",
                    warning=True,
                )
            )


def _propose_copy(machine: Machine, entry: Declared, problems: list[Problem]) -> None:
    target = os.readlink(machine.show(entry.path))
    if target == entry.in_store:
        return
    problems.append(
        Problem.at(
            entry.place,
            f"{entry.path} is a symbolic link to {target}, and a link cannot be bound over",
            'set method = "copy", which keeps a link as a link',
            warning=True,
        )
    )


def _kind(machine: Machine, entry: Declared) -> int:
    """The type of what the live root has at the path itself; 0 if that cannot be seen."""
    try:
        return stat.S_IFMT(os.lstat(machine.show(entry.path)).st_mode)
    except OSError:
        return 0
