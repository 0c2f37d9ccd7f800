"""Whether users can follow their links: a link needs searchable directories in the store."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from ephemeroot.config.declared import Declared, Home
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Problem
from ephemeroot.machine.facts import Machine


def check(
    machine: Machine, declared: Sequence[Declared], homes: Sequence[Home], problems: list[Problem]
) -> None:
    """Note a warning for each link into a store that its user cannot follow."""
    if machine.another:
        return
    users = {home.path: home for home in reversed(homes)}
    for entry in declared:
        if entry.options.method not in ("symlink", "auto"):
            continue
        user, group = _user(entry, users)
        if user == 0 or (
            entry.options.method == "auto" and os.path.exists(machine.show(entry.in_store))
        ):
            continue
        closed = _closed(machine, entry.in_store, user, group)
        if closed is not None:
            problems.append(
                Problem.at(
                    entry.place,
                    f"the user {user} cannot follow the link {entry.path}: no search permission on "
                    f"{closed}",
                    f"run 'chmod o+x {closed}', or set method = \"bind\"",
                    warning=True,
                )
            )


def _user(entry: Declared, homes: Mapping[str, Home]) -> tuple[int, int]:
    """User and group of the path: those of the innermost home that contains it, else its owners."""
    for path in reversed(clean.ancestors(entry.path)):
        if path in homes:
            return homes[path].user, homes[path].group
    return entry.owner.user or 0, entry.owner.group or 0


def _closed(machine: Machine, path: str, user: int, group: int) -> str | None:
    """The first parent of *path* that *user* cannot search; ``None`` if all are searchable or a
    parent is missing.
    """
    for directory in clean.parents(path):
        try:
            status = os.stat(machine.show(directory))
        except OSError:
            return None  # the boot creates it with the attributes of the root's directory
        if not may_search(status, user, group):
            return directory
    return None


def may_search(status: os.stat_result, user: int, group: int) -> bool:
    """Whether *user*, with no group but *group*, can search a directory with this *status*."""
    if status.st_uid == user:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == group:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
