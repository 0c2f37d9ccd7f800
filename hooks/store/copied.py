"""Which files of a root are copies of a store's: recorded for this boot, and for the next one."""

from __future__ import annotations

import os
from binascii import crc32

from ephemeroot.hooks import records, tree
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.store import order
from ephemeroot.linux import documents, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ephemeroot.hooks.stage import Stage

COPIED = ".ephemeroot/copied"
"""The file in a root that says from which of the stores' files its own were copied. With it
the next boot can tell that a root has something newer than the store.
"""

COPIES = "copies"
"""The record in the run directory that lists the files to copy back in this boot."""

WATCHED = "systemd/system/ephemeroot-copy.path.d/paths.conf"
"""What this boot's files add to the unit that watches them, below /run."""


def remember(stage: Stage) -> None:
    """Write for the running system which files to copy back and to watch.

    Without it the machine boots as well, and the files are as they were at boot: that is
    reported and does not stop it.
    """
    if not stage.copies:
        return
    try:
        _remember(stage)
    except OSError as error:
        stage.report.problem(
            f"changed files will not be copied back to the stores: {error.strerror}"
        )


def _remember(stage: Stage) -> None:
    ids = {store.path: store.id for store in stage.plan.stores()}
    stage.remember(
        COPIES,
        {
            "boot-id": stage.boot_id,
            "root": ownership.identity(stage.root()),
            "limit": stage.plan.seed_limit,
            "files": stage.copies,
            "stores": {entry.store: ids[entry.store] for entry in map(CopiedFile, stage.copies)},
        },
    )
    stores = {entry.store: stage.store(entry.store) for entry in map(CopiedFile, stage.copies)}
    write(stage.root(), stores, [CopiedFile(entry) for entry in stage.copies])
    drop_in = f"{os.path.dirname(stage.run)}/{WATCHED}"
    os.makedirs(os.path.dirname(drop_in), 0o755, exist_ok=True)
    lines = [_watch(entry.path) for entry in map(CopiedFile, stage.copies)]
    paths.write_atomically(drop_in, os.fsencode("[Path]\n" + "".join(lines)))


def _watch(path: str) -> str:
    """A line for the unit; empty for a name that no unit can hold (it is copied at
    shutdown anyway).
    """
    if "\n" in path or path.endswith(("\\", " ", "\t")):
        return ""
    return f"PathChanged={path.replace('%', '%%')}\n"


def write(root: int, stores: dict[str, int], files: list[CopiedFile]) -> None:
    """Record in the open *root* that *files* are those of the open *stores*."""
    stamps = {}
    for entry in files:
        stamp = _stamp(stores[entry.store], entry.source)
        if stamp is not None:
            through = [entry.through] if entry.through else []
            stamps[entry.path] = [entry.store, entry.source, *stamp, *through]
    records.write(root, COPIED, documents.dump(stamps))


def _stamp(store: int, source: str) -> list[int] | None:
    """A stamp that changes when the store's file is replaced or written to."""
    try:
        parent, name = tree.open_parent(store, source)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
    except OSError:
        return None
    return [status.st_ino, status.st_ctime_ns]


def newer_in(root: int, path: str, store_path: str, store: int, source: str) -> str | None:
    """Where the boot of the open *root* had its file *path*, if that was copied from what the
    store still has: if it is another one by now, it is newer, and only the power was faster.

    The empty string is the root itself, else it is the store through whose directory the file is
    seen. ``None`` if the file was not copied, or the store has another one since.
    """
    try:
        stamps = documents.parse(records.read_usable(root, COPIED) or b"{}")
        stamp = stamps.get(path) or []
        if stamp[:4] != [store_path, source, *(_stamp(store, source) or [])]:
            return None
        return str(stamp[4]) if len(stamp) > 4 else ""
    except (ValueError, AttributeError, TypeError):
        return None


class CopiedFile:
    """One file that is copied back: ``path`` in the root, ``source`` in ``store``; ``user`` is
    whose entry it is (a number). ``through`` is the other store through whose directory the path
    is seen, empty if it is the root's own.
    """

    __slots__ = ("path", "source", "store", "through", "user")

    def __init__(self, entry: Mapping[str, object]) -> None:
        self.path = str(entry["path"])
        self.store = str(entry["store"])
        self.source = str(entry["source"])
        self.through = str(entry.get("through", ""))
        user = entry.get("user", order.ROOT)
        self.user = user if isinstance(user, int) else order.ROOT

    @property
    def temporary(self) -> str:
        """Its name in the store's own directory."""
        return f"{crc32(os.fsencode(self.source)):08x}"
