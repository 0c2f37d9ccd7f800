"""Whether users can reach their declared paths in the simulated root: they must be able to search
each directory above the path, and above the target of a link into a store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ephemeroot.config.checks import access
from ephemeroot.config.syntax import clean
from ephemeroot.hooks.operations.linkable import Linkable
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.store import order
from ephemeroot.linux import paths
from ephemeroot.machine.accounts import Accounts


@dataclass(frozen=True, slots=True)
class Closed:
    """``user`` (a number) cannot search ``directory``, which is above ``path`` or its target."""

    user: int
    path: str
    directory: str
    is_link: bool

    @property
    def text(self) -> str:
        """The message."""
        link = f", and {self.path} is a link through it" if self.is_link else ""
        return (
            f"the user {self.user} cannot reach {self.path}: the user cannot search "
            f"{self.directory}{link}"
        )

    @property
    def hint(self) -> str:
        """The command that repairs it."""
        bind = ', or set method = "bind"' if self.is_link else ""
        return f"run 'chmod o+x {self.directory}'{bind}"


def look(root: int, plan: Plan, accounts: Accounts) -> Iterator[Closed]:
    """A finding for each declared path of a user that the user cannot reach in the open *root*."""
    groups = {user.uid: user.gid for user in accounts.users.values()}
    for operation in plan.persist:
        if not isinstance(operation, Linkable):
            continue
        path = operation.path
        user = plan.owner(path)
        if user == order.ROOT:
            user = operation.user or order.ROOT
        if user == order.ROOT:
            continue
        group = groups.get(user, operation.group or 0)
        target = _link(root, path)
        ways = [(path, False), *([(target, True)] if target.startswith("/") else [])]
        for way, is_link in ways:
            closed = _closed(root, way, user, group)
            if closed:
                yield Closed(user, path, closed, is_link)
                break


def _closed(root: int, path: str, user: int, group: int) -> str:
    """The first directory above *path* that *user* cannot search; empty if there is none."""
    for directory in clean.parents(path):
        try:
            fd = paths.open_in_root(root, directory)
        except OSError:
            return ""
        try:
            if not access.may_search(os.fstat(fd), user, group):
                return directory
        finally:
            os.close(fd)
    return ""


def _link(root: int, path: str) -> str:
    try:
        fd = paths.open_in_root(root, path.rpartition("/")[0] or "/")
    except OSError:
        return ""
    try:
        return os.readlink(path.rpartition("/")[2], dir_fd=fd)
    except OSError:
        return ""
    finally:
        os.close(fd)
