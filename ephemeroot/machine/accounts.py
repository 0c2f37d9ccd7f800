"""Users and groups of the machine's root.

They are read from the root's own files, because an image may be built for a machine whose users do
not exist here. The running system (network directories) is asked only if it has the same root.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

from ephemeroot.linux import values
from ephemeroot.machine import files

# Files in which distributions keep the accounts of the base, after /etc.
_PLACES = ("/etc", "/usr/lib")


@dataclass(frozen=True, slots=True)
class User:
    """A line of passwd."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class Accounts:
    """Users and groups by name; with ``ask``, the running system is asked for others."""

    users: Mapping[str, User] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    ask: bool = False

    @classmethod
    def of(cls, root: str, unread: list[files.File] | None = None) -> Accounts:
        """The accounts in the root directory *root*; files that cannot be read go to *unread*."""
        users: dict[str, User] = {}
        groups: dict[str, int] = {}
        for directory in _PLACES:
            for fields in _lines(root, f"{directory}/passwd", 7, unread):
                uid, gid = _number(fields[2]), _number(fields[3])
                if uid is not None and gid is not None:
                    users.setdefault(fields[0], User(fields[0], uid, gid, fields[5]))
            for fields in _lines(root, f"{directory}/group", 4, unread):
                if (gid := _number(fields[2])) is not None:
                    groups.setdefault(fields[0], gid)
        return cls(users, groups, ask=root == "/")

    def user(self, name: str) -> User | None:
        """The user called *name*; root always exists."""
        if name in self.users:
            return self.users[name]
        if name == "root":
            return User("root", 0, 0, "/root")
        if not self.ask:
            return None
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            return None
        return User(name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    def uid(self, name: str | int) -> int | None:
        """The number of a user given by name or number, ``None`` if there is no such user."""
        if isinstance(name, int):
            return name
        user = self.user(name)
        if user is not None:
            return user.uid
        return _number(name)

    def gid(self, name: str | int) -> int | None:
        """The number of a group given by name or number, ``None`` if there is no such group."""
        if isinstance(name, int):
            return name
        if name in self.groups:
            return self.groups[name]
        if name == "root":
            return 0
        if self.ask:
            try:
                return grp.getgrnam(name).gr_gid
            except (KeyError, ValueError):
                pass
        return _number(name)


def _number(name: str) -> int | None:
    """*name* as a number; ``None`` if it is not one. -1 is "no id" to the kernel (chown(2))."""
    number = values.number(name, 10)
    return number if number is not None and number < 2**32 - 1 else None


def _lines(root: str, path: str, fields: int, unread: list[files.File] | None) -> list[list[str]]:
    text = files.read_text(root, path, unread) or ""
    split = [line.split(":") for line in text.split("\n") if line and not line.startswith("#")]
    # +name and -name are NIS's (nsswitch.conf(5), compat).
    return [parts for parts in split if len(parts) == fields and parts[0][:1] not in ("+", "-")]
