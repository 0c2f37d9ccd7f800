"""Links of Ephemeroot's that a program has replaced by a file or a directory of its own.

Programs write a new file and rename it over the old name; that replaces a link into a store, and
later writes are lost with the root. So each boot records in the store which links
are in effect at its end, and the next one stores what it finds in their place. The store's previous
content is kept beside it. After a boot in which the path failed, a service may have begun again
there: what it made is kept aside, and the store's stays.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.hooks import limits, records, tree
from ephemeroot.hooks.report import WARNING
from ephemeroot.hooks.store import seed
from ephemeroot.linux import bounds, comparison, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeGuard

    from ephemeroot.hooks.operation import Operation
    from ephemeroot.hooks.stage import Stage

    class Linked(Protocol):
        """A declared file or directory that may be a link."""

        KIND: str
        path: str
        store: str
        source: str


RECORD = ".ephemeroot/linked"
"""The record in a store: ``R`` and the name of the root that it is about, ``L`` and the path of
each link that was in effect, ``F`` and the path of each that failed, NUL-terminated."""

NAME = ".ephemeroot/name"
"""The record in a root with that name. Without it no file of the root is taken for a replaced link:
the root of an earlier boot never had those links."""

PREVIOUS = ".ephemeroot-previous"
"""The suffix of the store's previous content."""

CONFLICT = ".ephemeroot-conflict"
"""The suffix of content that was created while the path was not in effect."""


def remember(stage: Stage, failed: list[Operation]) -> None:
    """Record which links are in effect in the new root, and which of *failed* were to be links.

    Without the record nothing is taken from the root at the next boot: no reason to stop this one.
    """
    lost = {getattr(operation, "path", "") for operation in failed}
    name = b""
    for path, store in stage.stores():
        lines = [
            line
            for operation in stage.plan.persist
            if _may_link(operation) and operation.store == path
            if (line := _line(stage, operation, failed=operation.path in lost))
        ]
        content = b"".join(lines)
        if content:
            name = name or _named(stage)
            content = b"R" + name + b"\0" + content if name else b""
        try:
            if content != records.read_usable(store, RECORD):
                records.write(store, RECORD, content)
        except OSError as error:
            if error.errno == errno.EROFS:
                continue  # storing other files there reports it
            stage.report.problem(
                f"{path}: cannot record which links are in effect: {error.strerror}", level=WARNING
            )


def forget(stage: Stage, covers: Callable[[Operation], bool] | None = None) -> None:
    """Forget the records of the operations that *covers* selects, by default of all: it is about
    the root that goes, and has been used.
    """
    linking = [o for o in stage.plan.persist if (covers is None or covers(o)) and _may_link(o)]
    known = {os.fsencode(o.path) for o in linking}
    for _, store in stage.stores():
        lines = [line for line in records.read_usable(store, RECORD).split(b"\0") if line]
        left = [line for line in lines if covers is not None and line[1:] not in known]
        if len(left) == len(lines):
            continue
        try:
            records.write(store, RECORD, b"".join(line + b"\0" for line in left))
        except OSError:
            pass  # read-only: nothing is recorded in it either


def _may_link(operation: object) -> TypeGuard[Linked]:
    return getattr(operation, "method", "") in ("symlink", "auto")


def _line(stage: Stage, operation: Linked, *, failed: bool) -> bytes:
    path = os.fsencode(operation.path)
    if failed:
        return b"F" + path + b"\0"
    try:
        parent, name = tree.open_parent(stage.root(), stage.resolve_leaf(operation.path))
        try:
            if tree.links_to(parent, name, f"{operation.store}/{operation.source}"):
                return b"L" + path + b"\0"
        finally:
            os.close(parent)
    except OSError:
        pass
    return b""


def _named(stage: Stage) -> bytes:
    """The name of the new root: what it has already if it was kept, else a new one; empty if it
    cannot be written.
    """
    name = records.read_usable(stage.root(), NAME) if stage.was_kept() else b""
    if name:
        return name
    try:
        name = os.urandom(12).hex().encode()
        records.write(stage.root(), NAME, name)
    except OSError as error:
        stage.report.problem(
            f"cannot record which root has the links: {error.strerror}", level=WARNING
        )
        return b""
    return name


def _is_about(stage: Stage, operation: Linked, record: bytes, root: int) -> bool:
    """Whether the *record* is about the open *root*. The name is in the root itself, and not in a
    volume that is made fresh.
    """
    if stage.wiped_above(operation.path) not in ("/", None):
        return True
    if not record.startswith(b"\0R"):
        return True  # an earlier version's, which has no name
    return record.startswith(b"\0R" + records.read_usable(root, NAME) + b"\0")


def _recorded(stage: Stage, operation: Linked, root: int | None = None) -> str:
    """``L`` or ``F`` as the record has it, or empty, also if it is not about the open *root*."""
    if not _may_link(operation):
        return ""
    record = b"\0" + records.read_usable(stage.store(operation.store), RECORD)
    if root is not None and not _is_about(stage, operation, record, root):
        return ""
    for mark in ("L", "F"):
        if b"\0" + mark.encode() + os.fsencode(operation.path) + b"\0" in record:
            return mark
    return ""


def describe(stage: Stage, operation: Linked) -> str:
    """The line of a dry run; empty if nothing can be taken."""
    recorded = _recorded(stage, operation)
    if recorded == "L":
        return f"store the content of {operation.path}, if a program replaced the link"
    return ""


def take(stage: Stage, operation: Linked, root: int, kinds: tuple[int, ...]) -> str:
    """Store what a program has put instead of the link in the open *root*; say so, or ``""``.

    *kinds* are those that the operation declares (``stat.S_IFREG``). Raises as ``seed.seed``.
    """
    recorded = _recorded(stage, operation, root)
    if not recorded:
        return ""
    try:
        head, _, last = operation.path.rpartition("/")
        above = tree.resolve(root, head or "/").rstrip("/")
        parent, name = tree.open_parent(root, f"{above}/{last}")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""
        raise
    try:
        status = _status(parent, name)
        if status is None or stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            return ""
        if recorded == "L" and stat.S_IFMT(status.st_mode) in kinds:
            return _store(stage, operation, parent, name)
        return _keep_aside(stage, operation, parent, name, status)
    finally:
        os.close(parent)


def settle(stage: Stage, operation: Linked, kinds: tuple[int, ...]) -> str:
    """In a kept root, store the file with which a program replaced the link; a file then
    gives way to the link. Return the action in words, or ``""``.
    """
    if not stage.was_kept():
        return ""
    done = take(stage, operation, stage.root(), kinds)
    if done and stat.S_IFREG in kinds and _recorded(stage, operation) == "L":
        parent, name = tree.open_parent(stage.root(), stage.resolve_leaf(operation.path))
        try:
            status = _status(parent, name)
            if status is not None and stat.S_ISREG(status.st_mode):
                os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)
    return done


def _store(stage: Stage, operation: Linked, parent: int, name: str) -> str:
    store = stage.store(operation.store)
    stored, last = tree.open_parent(store, operation.source)
    try:
        there = _status(stored, last)
        if there is not None and _is_same(stage, parent, name, stored, last):
            return "stored already"
        aside = last + PREVIOUS
        kept = there is not None and _status(stored, aside) is None
    finally:
        os.close(stored)
    done = seed.store(stage, operation.path, operation.store, operation.source, parent, name, aside)
    if not done:
        return ""
    line = f"{operation.path}: a program replaced the link; the new content is stored"
    if kept:
        line += f"; the previous content is kept as {operation.store}/{operation.source}{PREVIOUS}"
    hint = 'use method = "copy" for a file that programs replace'
    if operation.KIND == "directory":
        hint = 'use method = "bind" for this directory'
    stage.report.problem(line, hint, WARNING)
    return f"stored the content that replaced the link ({done})"


def _keep_aside(
    stage: Stage, operation: Linked, parent: int, name: str, status: os.stat_result
) -> str:
    """Keep foreign content beside the store's own, once."""
    stored, last = tree.open_parent(stage.store(operation.store), operation.source)
    try:
        if _status(stored, last) is None and _recorded(stage, operation) == "F":
            return ""  # nothing to be in conflict with: it is seeded
        if _is_empty(parent, name, status) or _status(stored, last + CONFLICT) is not None:
            return ""
        if _is_same(stage, parent, name, stored, last):
            return ""
    finally:
        os.close(stored)
    if not seed.store(
        stage, operation.path, operation.store, operation.source + CONFLICT, parent, name
    ):
        return ""
    kept = f"{operation.store}/{operation.source}{CONFLICT}"
    stage.report.problem(
        f"{operation.path}: content created while the path was not in effect is kept as {kept}",
        f"compare it with {operation.store}/{operation.source}, and remove it",
        WARNING,
    )
    return f"kept aside as {kept}"


def _is_same(stage: Stage, parent: int, name: str, stored: int, last: str) -> bool:
    try:
        meter = bounds.Meter(limits.bounds(stage.plan.seed_limit, stage.allowance.deadline))
        return comparison.same_tree(parent, name, stored, last, meter)
    except (OSError, bounds.OutOfBounds):
        return False


def _is_empty(parent: int, name: str, status: os.stat_result) -> bool:
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size == 0
    try:
        fd = paths.open_entry(parent, name, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return not paths.names(fd)
    finally:
        os.close(fd)


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
