"""Numbers of owners that have come to mean another user or group.

A persistent file has its owner as a number. A base that is made again may give that number to
another service: the old one cannot read its files, and the new one can. So the name that belonged
to the number is recorded in the store at each boot, and compared with the name in the new root.
"""

from __future__ import annotations

import os
import stat

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import limits, records, tree
from ephemeroot.hooks.report import WARNING
from ephemeroot.linux import paths, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.operation import Operation
    from ephemeroot.hooks.stage import Stage

RECORD = ".ephemeroot/owners"
"""The record in a store: path, ``user`` or ``group``, number and name of each owner, each ended by
NUL.
"""

# /usr/lib: where image-based systems keep the accounts of the base (nss-altfiles).
_PLACES = ("/etc", "/usr/lib")
USER, GROUP = "user", "group"
_FILES = {USER: ("passwd", 7), GROUP: ("group", 4)}


class Names:
    """The names of users and groups in the open *root*, by number and the other way round. The
    first line of a number is the one that takes effect (getpwuid(3)).
    """

    __slots__ = ("names", "numbers")

    def __init__(self, root: int) -> None:
        self.names: dict[tuple[str, int], str] = {}
        self.numbers: dict[tuple[str, str], int] = {}
        for kind, (file, fields) in _FILES.items():
            for place in _PLACES:
                for line in _read(root, f"{place}/{file}").split("\n"):
                    parts = line.split(":")
                    if len(parts) != fields or parts[0][:1] in "#+-":
                        continue
                    number = values.number(parts[2], 10)
                    if number is not None:
                        self.names.setdefault((kind, number), parts[0])
                        self.numbers.setdefault((kind, parts[0]), number)


class Moved:
    """The *number* of a *kind* that belonged to *before*, and now to *after* (empty: to no name).
    *number_now* is the one that *before* has now, ``None`` if there is no such name any more.
    """

    __slots__ = ("after", "before", "kind", "number", "number_now")

    def __init__(self, kind: str, number: int, before: str, now: Names) -> None:
        self.kind = kind
        self.number = number
        self.before = before
        self.after = now.names.get((kind, number), "")
        self.number_now = now.numbers.get((kind, before))

    def __bool__(self) -> bool:
        return self.number != 0 and self.before != self.after and bool(self.after)

    def describe(self, path: str) -> str:
        """One line about the *path* that has this owner."""
        return (
            f"{path} belongs to the {self.kind} {self.number}, whose name was {self.before} and is "
            f"now {self.after}"
        )

    def hint(self, path: str) -> str:
        """The command that repairs it, for a shell in that root."""
        if self.number_now is None:
            return f"no {self.kind} {self.before} exists now: change the owner with chown"
        colon = ":" if self.kind == GROUP else ""
        return f"chown -hR --from={colon}{self.number} {colon}{self.before} {_quoted(path)}"


def owners(status: os.stat_result) -> tuple[tuple[str, int], tuple[str, int]]:
    """User and group in *status*."""
    return (USER, status.st_uid), (GROUP, status.st_gid)


def check(stage: Stage) -> None:
    """Warn of declared paths whose owner's number has come to mean another name, and record the
    names of the others.
    """
    now = Names(stage.root())
    for path, store in stage.stores():
        operations = [o for o in stage.plan.persist if getattr(o, "store", "") == path]
        before = _recorded(store)
        after = _check_store(stage, store, operations, before, now)
        content = b"".join(
            os.fsencode(declared) + b"\0" + f"{kind}\0{number}\0{name}".encode() + b"\0"
            for (declared, kind), (number, name) in sorted(after.items())
        )
        try:
            if after != before:
                records.write(store, RECORD, content)
        except OSError:
            pass  # read-only or full: what matters there says so


def _check_store(
    stage: Stage,
    store: int,
    operations: list[Operation],
    before: dict[tuple[str, str], tuple[int, str]],
    now: Names,
) -> dict[tuple[str, str], tuple[int, str]]:
    after = {}
    within = _Within(store)
    for operation in operations:
        path, source = getattr(operation, "path", ""), getattr(operation, "source", "")
        if operation.KIND not in ("directory", "file", "copy") or not source:
            continue
        status = within.status_of(source)
        if status is None:
            continue
        for kind, number in owners(status):
            known = before.get((path, kind))
            moved = Moved(kind, number, known[1], now) if known and known[0] == number else None
            if moved:
                stage.report.problem(
                    moved.describe(path), moved.hint(path), WARNING
                )  # fmt: skip
            if known and moved and moved.number_now is not None:
                after[path, kind] = known  # until it is repaired
            elif (kind, number) in now.names and number:
                after[path, kind] = (number, now.names[kind, number])
    within.close()
    return after


def _recorded(store: int) -> dict[tuple[str, str], tuple[int, str]]:
    fields = records.read_usable(store, RECORD).split(b"\0")
    found = {}
    for path, kind, text, name in zip(*(iter(fields[:-1]),) * 4, strict=False):
        number = values.number(text, 10)
        if number is not None:
            found[os.fsdecode(path), os.fsdecode(kind)] = (number, os.fsdecode(name))
    return found


class _Within:
    """Looks into the open *store*, whose last directory stays open: paths come in their order."""

    __slots__ = ("_directory", "_head", "_store")

    def __init__(self, store: int) -> None:
        self._store = store
        self._head = ""
        self._directory = -1

    def status_of(self, source: str) -> os.stat_result | None:
        """The status of *source*; ``None`` if it is missing or cannot be reached."""
        head, _, name = source.rpartition("/")
        try:
            if self._directory < 0 or head != self._head:
                self.close()
                self._directory = paths.open_beneath(self._store, head, tree.DIRECTORY)
                self._head = head
            return os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return None

    def close(self) -> None:
        """Close the directory."""
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = -1


def _read(root: int, path: str) -> str:
    try:
        fd = paths.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            return records.read_open(fd, limits.ACCOUNTS, path).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)
    except (OSError, EphemerootError):
        return ""


def _quoted(path: str) -> str:
    """*path* as one word of a shell."""
    if path and not set(path) - _PLAIN:
        return path
    return "'" + path.replace("'", "'\\''") + "'"


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%,=:")
