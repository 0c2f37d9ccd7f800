"""The records that ``apply`` writes into the stores: the marker, the plan and its generation.

The boot recognises a store by its marker alone. Only the installed system writes a marker, once,
and never replaces it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from pathlib import Path

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.parents import Parents
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.records import MARKER, STATE
from ephemeroot.linux import documents, paths, removal

VERSION = 1
PLAN = "plan.json"
GENERATION = "generation"

REPLACED = "replaced"
"""Under a store's records: replaced files. Ephemeroot never deletes them."""

CONFIGURATION = "etc/ephemeroot"
_NEW, _OLD = ".ephemeroot.new", ".ephemeroot.old"


def write_marker(store: Path, name: str) -> str:
    """Make the directory *store*, which the machine has as *name*, a store; return its new id.

    Raises ``FileExistsError`` if it has a marker.
    """
    identity = str(uuid.uuid4())
    content = {"version": VERSION, "id": identity, "path": name}
    encoded = json.dumps(content, sort_keys=True).encode() + b"\n"
    marker = store / MARKER
    # Written under another name and linked: the marker is never incomplete, and never replaced.
    temporary = store / f"{MARKER}.{identity}"
    paths.write_atomically(str(temporary), encoded, 0o644)
    try:
        os.link(temporary, marker)
    finally:
        temporary.unlink()
        paths.sync_directory(str(store))
    return identity


def generation(store: Path) -> int:
    """The newest generation that was applied with this store; 0 without a record.

    Raises ``PermissionError``, and ``Damaged`` for a record that cannot be read: with a lower
    number, old images would wipe.
    """
    record = store / STATE / GENERATION
    try:
        return int(documents.read(str(record), 64).decode("ascii"))
    except FileNotFoundError:
        return 0
    except PermissionError:
        raise  # the hint of ``Damaged`` is for root only
    except (OSError, ValueError) as error:
        raise Damaged(
            f"cannot read the generation in {record}: {error}",
            "write the number of the newest generation into it, see 'ephemeroot status'",
        ) from error


def plan(store: Path) -> Plan | None:
    """The plan that was applied last with this store; ``None`` if it cannot be read."""
    try:
        record = store / STATE / PLAN
        return plans.parse(documents.read(str(record)), str(record))
    except (OSError, Damaged):
        return None


def record(store: Path, plan: bytes, number: int) -> None:
    """Record the plan and its generation in the store, after which older images do not wipe."""
    folder = _own_folder(store)
    paths.write_atomically(str(folder / PLAN), plan, 0o600)
    paths.write_atomically(str(folder / GENERATION), f"{number}\n".encode(), 0o600)
    paths.sync_directory(str(store))


def recorded(store: Path) -> bytes:
    """The bytes of the plan in the store; empty if it cannot be read."""
    try:
        return documents.read(str(store / STATE / PLAN))
    except OSError:
        return b""


def _own_folder(store: Path) -> Path:
    """The directory of Ephemeroot's records in the store, created if missing. Only root can write
    to it.
    """
    folder = store / STATE
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != os.geteuid():
        raise EphemerootError(
            f"cannot write records to {folder}: not a directory that belongs to root",
            "move it away, then run the command again",
        )
    folder.chmod(0o700)
    return folder


def keeps_configuration(store: Path, root: Path) -> bool:
    """Whether /etc/ephemeroot of the system at *root* is bound from the store."""
    live, kept = root / CONFIGURATION, store / CONFIGURATION
    try:
        return live.samefile(kept)
    except FileNotFoundError:
        return False


def copy_configuration(store: Path, root: Path) -> Path | None:
    """Replace /etc/ephemeroot in the store, from where the boot binds it, with the root's.

    If the store has a different configuration, as after a boot without binds, that is kept under
    ``REPLACED``; returns its path.
    """
    kept = store / CONFIGURATION
    _make_parent(store, kept.parent)
    fresh = kept.with_name(_NEW)
    _remove(fresh)
    shutil.copytree(root / CONFIGURATION, fresh, symlinks=True)
    _sync(fresh)
    aside = None
    if not kept.exists():
        fresh.rename(kept)
    elif _files(kept) == _files(fresh):
        _remove(_exchange(fresh, kept))
    else:
        aside = _keep_aside(fresh, kept, _own_folder(store) / REPLACED)
    paths.sync_directory(str(kept.parent))
    return aside


def _make_parent(store: Path, parent: Path) -> None:
    """Create the parent directory of the configuration and record it as such, see ``Parents``."""
    if parent.is_dir():
        return
    fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        Parents(fd).add([str(parent.relative_to(store))])
    finally:
        os.close(fd)
    parent.mkdir(mode=0o755)


def _keep_aside(fresh: Path, kept: Path, folder: Path) -> Path:
    """Rename *fresh* to *kept*, and *kept* into *folder*; return its new path.

    *fresh* is moved into *folder* first, so that *kept* never has a name that the next run removes.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    name = f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    aside = folder / name
    try:
        fresh.rename(aside)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = kept.with_name(f".ephemeroot.{name}")  # etc is a subvolume by itself
        fresh.rename(aside)
    try:
        paths.rename(-1, str(aside), -1, str(kept), flags=paths.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # NFS cannot exchange. Between the renames the file is missing; `apply` writes it again.
        new = aside.with_name(f"{aside.name}.new")
        aside.rename(new)
        kept.rename(aside)
        new.rename(kept)
    return aside


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a configuration by their paths, without the plan, which is generated."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != PLAN}


def _exchange(fresh: Path, kept: Path) -> Path:
    """Rename *fresh* to *kept*; return the new path of the old *kept*."""
    try:
        paths.rename(-1, str(fresh), -1, str(kept), flags=paths.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # NFS cannot exchange. Between the renames the file is missing; `apply` writes it again.
        old = kept.with_name(_OLD)
        _remove(old)
        kept.rename(old)
        fresh.rename(kept)
        return old
    return fresh


def _remove(path: Path) -> None:
    """Remove a copy of the configuration, if it exists. It may be a subvolume."""
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        removal.remove(parent, path.name, subvolumes=True)
    finally:
        os.close(parent)


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
