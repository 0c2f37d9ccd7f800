"""The files that say who may log in: what is wrong with one, and what a newer base adds.

passwd, group, shadow and gshadow (passwd(5), group(5), shadow(5), gshadow(5)) belong
together. The store's are the machine's; a base that was upgraded may have gained system
users, whose files are on the root and whose services will start.
"""

from __future__ import annotations

PASSWD, GROUP, SHADOW, GSHADOW = "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"

MERGED = (PASSWD, GROUP, SHADOW, GSHADOW)
"""What is merged with the base's."""

LOCKED = (*MERGED, "/etc/subuid", "/etc/subgid")
"""What shadow-utils changes only while it holds the lock of lckpwdf(3)."""

_SYSTEM = 1000  # login.defs(5), SYS_UID_MAX and SYS_GID_MAX, plus one
_NUMBER = 2  # the field of the uid in passwd, and of the gid in group
_MEMBERS = 3  # of group and gshadow


def defect(path: str, content: bytes) -> str:
    """What would lock everybody out if *content* were the file *path*, empty if nothing.

    Only that: a line that no program understands is no reason to forget all the others.
    """
    if path not in MERGED:
        return ""
    if b"\0" in content:
        return "it has NUL bytes, as a write that a power cut has torn leaves them"
    if path == PASSWD and not any(f[_NUMBER] == b"0" for f in _lines(content, 7)):
        return "it has no user with the number 0"
    if path == SHADOW and b"root" not in _names(content, 2):
        return "it has no line for root"
    if path == GROUP and not any(f[_NUMBER] == b"0" for f in _lines(content, 4)):
        return "it has no group with the number 0"
    return ""


class Merger:
    """The store's files with the system users and groups that only the *base*'s have.

    *store* and *base* map the paths of ``MERGED`` to contents; a file that is not there
    is empty. ``conflicts`` are the base's names that were left out because the store has
    another one with their number: two names for one number would share their files.
    """

    __slots__ = ("_base", "_groups", "_store", "_users", "conflicts")

    def __init__(self, store: dict[str, bytes], base: dict[str, bytes]) -> None:
        self._store = store
        self._base = base
        self.conflicts: list[str] = []
        self._users = self._newcomers(PASSWD, 7)
        self._groups = self._newcomers(GROUP, 4)

    def _newcomers(self, path: str, fields: int) -> set[bytes]:
        """Names that the base has and the store lacks; all of them if it lacks the file."""
        known = self._store.get(path) or self._base.get(path, b"")
        names = _names(known, 1)
        numbers = {f[_NUMBER] for f in _lines(known, fields)}
        found = set()
        for line in _lines(self._base.get(path, b""), fields):
            if line[0] in names or not _is_system(line[_NUMBER]):
                continue
            if line[_NUMBER] in numbers:
                what = "user" if path == PASSWD else "group"
                self.conflicts.append(
                    f"{what} {_show(line[0])}, whose number {_show(line[_NUMBER])} "
                    f"another {what} has"
                )
                continue
            found.add(line[0])
        return found

    def merge(self, path: str) -> tuple[bytes, list[str]]:
        """The content that *path* is to have, and the names that were added to it."""
        content = self._store.get(path, b"")
        here = _names(content, 1)
        wanted = self._wanted(path)
        fresh = [
            line
            for line in self._base.get(path, b"").split(b"\n")
            if (name := line.split(b":")[0]) in wanted and name not in here
        ]
        joined = self._with_members(path, content)
        if fresh and joined and not joined.endswith(b"\n"):
            joined += b"\n"
        joined += b"".join(line + b"\n" for line in fresh)
        return joined, [_show(line.split(b":")[0]) for line in fresh]

    def _wanted(self, path: str) -> set[bytes]:
        """Names of the base that belong into *path*. A shadow entry also for a name that
        came in at an earlier boot whose power went before it had one.
        """
        if path == PASSWD:
            return self._users
        if path == GROUP:
            return self._groups
        first, fields = (PASSWD, 7) if path == SHADOW else (GROUP, 4)
        base = self._base.get(first, b"")
        known = _names(self._store.get(first) or base, 1)
        newcomers = self._users if path == SHADOW else self._groups
        system = {line[0] for line in _lines(base, fields) if _is_system(line[_NUMBER])}
        return system & (known | newcomers)

    def _with_members(self, path: str, content: bytes) -> bytes:
        """The store's groups, with the new users that are their members in the base."""
        if path not in (GROUP, GSHADOW) or not self._users:
            return content
        joining = {}
        for fields in _lines(self._base.get(path, b""), 4):
            joining[fields[0]] = [m for m in fields[_MEMBERS].split(b",") if m in self._users]
        lines = content.split(b"\n")
        for number, line in enumerate(lines):
            fields = line.split(b":")
            if len(fields) != 4 or not joining.get(fields[0]):
                continue
            members = [m for m in fields[_MEMBERS].split(b",") if m]
            members += [m for m in joining[fields[0]] if m not in members]
            lines[number] = b":".join([*fields[:_MEMBERS], b",".join(members)])
        return b"\n".join(lines)


def _lines(content: bytes, count: int) -> list[list[bytes]]:
    """The fields of the lines that have so many."""
    return [f for line in content.split(b"\n") if len(f := line.split(b":")) == count]


def _names(content: bytes, least: int) -> set[bytes]:
    """The names of the lines that have at least so many fields."""
    lines = [line.split(b":") for line in content.split(b"\n") if line]
    return {fields[0] for fields in lines if len(fields) >= least}


def _is_system(number: bytes) -> bool:
    return number.isdigit() and 0 < int(number) < _SYSTEM


def _show(name: bytes) -> str:
    return name.decode("utf-8", "replace")
