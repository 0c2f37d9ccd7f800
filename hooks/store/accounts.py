"""The files that say who may log in: the fault in one, and what a newer base adds.

passwd, group, shadow and gshadow (passwd(5), group(5), shadow(5), gshadow(5)) belong
together. The store's are the machine's; a base that was upgraded may have gained system
users, whose files are on the root and whose services will start.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.hooks import limits, records, tree
from ephemeroot.linux import immutable, paths, values

PASSWD, GROUP, SHADOW, GSHADOW = "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"

MERGED = (PASSWD, GROUP, SHADOW, GSHADOW)
"""The files that are merged with the base's."""

LOCKED = (*MERGED, "/etc/subuid", "/etc/subgid")
"""What shadow-utils changes only while it holds the lock of lckpwdf(3)."""

_FIELDS = {PASSWD: 7, GROUP: 4, SHADOW: 9, GSHADOW: 4}
_LONGEST = 4096  # bytes of a line that is taken from a base; glibc begins with buffers of 1024
_NAME = 32  # bytes of a name (useradd(8))
_FIRST = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_REST = _FIRST | frozenset(b"0123456789-.")

_SYSTEM = 1000  # login.defs(5), SYS_UID_MAX and SYS_GID_MAX, plus one
_NUMBER = 2  # the field of the uid in passwd, and of the gid in group
_MEMBERS = 3  # of group and gshadow


def defect(path: str, content: bytes) -> str:
    """Why all users would be locked out if *content* were the file *path*; empty if not.

    Only that: a line that no program understands is not a reason to forget all the others.
    """
    if path not in MERGED:
        return ""
    if b"\0" in content:
        return "it contains NUL bytes, probably from a write that a power cut interrupted"
    if path == PASSWD and not any(_number(f) == 0 for f in _lines(content, 7)):
        return "it has no user with the id 0"
    if path == SHADOW and b"root" not in _names(content, 2):
        return "it has no line for root"
    if path == GROUP and not any(_number(f) == 0 for f in _lines(content, 4)):
        return "it has no group with the id 0"
    return ""


class Merger:
    """The store's files with the system users and groups that only the *base*'s have.

    *store* and *base* map the paths of ``MERGED`` to contents; a file that is missing
    is empty. ``conflicts`` are the base's names that were left out because the store has
    another one with their number: two names for one number would share their files.

    Every line of the store stays as it is, but for the members that a group gets. Of the
    base's lines only those are taken that mean one thing to every program: the right number
    of fields, a name and numbers as shadow-utils writes them, and the first line of a name,
    which takes effect (getpwnam(3)). The number 0 is refused.
    """

    __slots__ = ("_base", "_groups", "_store", "_users", "conflicts")

    def __init__(self, store: dict[str, bytes], base: dict[str, bytes]) -> None:
        self._store = store
        self._base = base
        self.conflicts: list[str] = []
        self._users = self._newcomers(PASSWD)
        self._groups = self._newcomers(GROUP)

    def _newcomers(self, path: str) -> set[bytes]:
        """Names that the base has and the store lacks; none if the store lacks the file."""
        known = self._store.get(path) or self._base.get(path, b"")
        names = _names(known, 1)
        numbers = _numbers(known)
        what = "user" if path == PASSWD else "group"
        found = set()
        for name, fields in _sound(path, self._base.get(path, b"")).items():
            number = _number(fields)
            if name in names or not _is_system(number):
                continue
            if number in numbers:
                self.conflicts.append(f"{what} {_show(name)}: another {what} has its id {number}")
                continue
            if path == PASSWD and _number(fields, _NUMBER + 1) in (0, None):
                self.conflicts.append(f"user {_show(name)}: its primary group is root's")
                continue
            if path == PASSWD and self._has_other_group(fields):
                self.conflicts.append(
                    f"user {_show(name)}: its primary group {_number(fields, _NUMBER + 1)} is "
                    "another group here"
                )
                continue
            found.add(name)
            numbers.add(number)
        return found

    def _has_other_group(self, user: list[bytes]) -> bool:
        """Whether the store has a group of another name with the number of the *user*'s group: the
        user would have the files of that group.
        """
        number = _number(user, _NUMBER + 1)
        here, there = (
            {name for name, group in _sound(GROUP, content).items() if _number(group) == number}
            for content in (self._store.get(GROUP, b""), self._base.get(GROUP, b""))
        )
        return bool(here) and not here & there

    def merge(self, path: str) -> tuple[bytes, list[str]]:
        """The content that *path* is to have, and the names that were added to it."""
        content = self._store.get(path, b"")
        here = _names(content, 1)
        wanted = self._wanted(path)
        fresh = {
            name: fields
            for name, fields in _sound(path, self._base.get(path, b"")).items()
            if name in wanted and name not in here
        }
        joined = self._with_members(path, content)
        if fresh and joined and not joined.endswith(b"\n"):
            joined += b"\n"
        joined += b"".join(b":".join(fields) + b"\n" for fields in fresh.values())
        return joined, [_show(name) for name in fresh]

    def _wanted(self, path: str) -> set[bytes]:
        """Names of the base that belong in *path*. A shadow entry also for a name that
        came in at an earlier boot whose power went before it had one.
        """
        if path == PASSWD:
            return self._users
        if path == GROUP:
            return self._groups
        first = PASSWD if path == SHADOW else GROUP
        base = self._base.get(first, b"")
        theirs = _sound(first, base)
        ours = _sound(first, self._store.get(first) or base)
        newcomers = self._users if path == SHADOW else self._groups
        return newcomers | {
            name
            for name, fields in theirs.items()
            if name in ours
            and _is_system(_number(fields))
            and _number(fields) == _number(ours[name])
        }

    def _with_members(self, path: str, content: bytes) -> bytes:
        """The store's groups, with the new users that are their members in the base. New users
        never become members of the group 0.
        """
        if path not in (GROUP, GSHADOW) or not self._users:
            return content
        joining = {
            name: [m for m in fields[_MEMBERS].split(b",") if m in self._users]
            for name, fields in _sound(path, self._base.get(path, b"")).items()
        }
        groups = self._store.get(GROUP) or self._base.get(GROUP, b"")
        for fields in _lines(groups, _FIELDS[GROUP]):
            if _number(fields) in (0, None):
                joining.pop(fields[0], None)
        lines = content.split(b"\n")
        for number, line in enumerate(lines):
            fields = line.split(b":")
            if len(fields) != _FIELDS[path]:
                continue
            wanted = joining.pop(fields[0], [])
            members = [m for m in fields[_MEMBERS].split(b",") if m]
            added = [m for m in dict.fromkeys(wanted) if m not in members]
            if added:
                lines[number] = b":".join([*fields[:_MEMBERS], b",".join([*members, *added])])
        return b"\n".join(lines)


def _sound(path: str, content: bytes) -> dict[bytes, list[bytes]]:
    """The fields of the first line of each name; left out is a name whose first line is not
    exactly what *path* has: another program may read it otherwise.
    """
    found: dict[bytes, list[bytes]] = {}
    seen = set()
    for line in content.split(b"\n"):
        fields = line.split(b":")
        name = fields[0]
        if name in seen:
            continue
        seen.add(name)
        if len(fields) != _FIELDS[path] or len(line) > _LONGEST or not _is_name(name):
            continue
        if any(byte < 0x20 or byte == 0x7F for byte in line):
            continue
        if path in (PASSWD, GROUP) and _number(fields) is None:
            continue
        found[name] = fields
    return found


def _lines(content: bytes, count: int) -> list[list[bytes]]:
    """The fields of the lines that have so many."""
    return [f for line in content.split(b"\n") if len(f := line.split(b":")) == count]


def _names(content: bytes, least: int) -> set[bytes]:
    """The names of the lines that have at least so many fields."""
    lines = [line.split(b":") for line in content.split(b"\n") if line]
    return {fields[0] for fields in lines if len(fields) >= least}


def _numbers(content: bytes) -> set[int | None]:
    """Every number that a line of passwd or group gives to its name, however it is written: also
    for a program that reads the digits at the beginning and no more (strtol(3)).
    """
    found: set[int | None] = set()
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > _NUMBER:
            text = fields[_NUMBER].strip().lstrip(b"+-")
            digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
            found.add(values.number(digits[:20], 20) or 0)
    return found


def _is_name(name: bytes) -> bool:
    """Whether *name* is one that programs make (useradd(8)): a NIS line (``+``) is not."""
    plain = name[:-1] if name.endswith(b"$") else name
    return bool(plain) and len(name) <= _NAME and plain[0] in _FIRST and _REST.issuperset(plain)


def _number(fields: list[bytes], place: int = _NUMBER) -> int | None:
    """The number in a line's fields, ``None`` if it is not written as programs write it."""
    text = fields[place]
    return None if text[:1] == b"0" and text != b"0" else values.number(text, 10)


def _is_system(number: int | None) -> bool:
    return number is not None and 0 < number < _SYSTEM


def _show(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def status_of(root: int, path: str) -> os.stat_result:
    """What *path* below the open *root* is; a link is not followed. Raises ``OSError``."""
    parent, name = tree.open_parent(root, path)
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def read(root: int, path: str) -> bytes:
    """The content of a regular file, empty if there is none. Raises ``OSError`` (EFBIG) for one
    that is too large to be a file of accounts.
    """
    try:
        if not stat.S_ISREG(status_of(root, path).st_mode):
            return b""
        fd = paths.open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    try:
        return records.read_open(fd, limits.ACCOUNTS, path)
    finally:
        os.close(fd)


def defect_in(path: str, root: int, source: str) -> str:
    """The fault in the file *source* as *path*, empty if nothing."""
    try:
        return defect(path, read(root, source))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return f"it is {error.strerror}"


def set_aside(store: int, source: str) -> str:
    """Rename the store's file, with its content; return its new name."""
    parent, name = tree.open_parent(store, source)
    try:
        number = 1
        while True:
            aside = f"{name}.damaged" if number == 1 else f"{name}.damaged.{number}"
            try:
                immutable.rename(parent, name, parent, aside, how=paths.RENAME_NOREPLACE)
                return aside
            except FileExistsError:
                number += 1
    finally:
        os.close(parent)
