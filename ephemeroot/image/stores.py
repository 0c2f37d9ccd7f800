"""What ``apply`` leaves in the stores: the marker, and the plan that counts.

A store is recognised at boot by its marker alone, so a marker is only ever written on the
installed system, once, and never replaced.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from pathlib import Path

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks.volumes import MARKER, STATE
from ephemeroot.linux import paths

VERSION = 1
PLAN = "plan.json"
GENERATION = "generation"

CONFIGURATION = "etc/ephemeroot"


def write_marker(store: Path, name: str) -> str:
    """Make the directory *store*, called *name* on the machine, a store; return its new id.

    Raises ``FileExistsError`` if it has a marker already.
    """
    identity = str(uuid.uuid4())
    content = {"version": VERSION, "id": identity, "path": name}
    encoded = json.dumps(content, sort_keys=True).encode() + b"\n"
    marker = store / MARKER
    # Written beside and linked: there is never half a marker, and never a second one.
    temporary = store / f"{MARKER}.{identity}"
    paths.write_atomically(str(temporary), encoded, 0o644)
    try:
        os.link(temporary, marker)
    finally:
        temporary.unlink()
        paths.sync_directory(str(store))
    return identity


def generation(store: Path) -> int:
    """The newest generation that was applied with this store; 0 if none was.

    Raises ``Damaged`` for a record that cannot be read: guessing a lower one would let old
    images wipe.
    """
    record = store / STATE / GENERATION
    try:
        return int(record.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise Damaged(
            f"cannot read {record}: {error}", "write the newest generation's number into it"
        ) from error


def record(store: Path, plan: bytes, number: int) -> None:
    """Keep the plan and its generation in the store; from now on older images do not wipe."""
    folder = store / STATE
    folder.mkdir(mode=0o700, exist_ok=True)
    _require_roots(folder)
    paths.write_atomically(str(folder / PLAN), plan, 0o600)
    paths.write_atomically(str(folder / GENERATION), f"{number}\n".encode(), 0o600)
    paths.sync_directory(str(store))


def _require_roots(folder: Path) -> None:
    status = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != os.geteuid():
        raise EphemerootError(f"{folder} is not root's own directory", "remove it")
    folder.chmod(0o700)


def keeps_configuration(store: Path, root: Path) -> bool:
    """Whether /etc/ephemeroot of the system below *root* is the store's own copy already."""
    live, kept = root / CONFIGURATION, store / CONFIGURATION
    try:
        return live.samefile(kept)
    except FileNotFoundError:
        return False


def copy_configuration(store: Path, root: Path) -> None:
    """Copy /etc/ephemeroot into the store, as a whole: it is bound from there at boot."""
    kept = store / CONFIGURATION
    kept.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = kept.with_name(".ephemeroot.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(root / CONFIGURATION, fresh, symlinks=True)
    _sync(fresh)
    if kept.exists():
        old = _exchange(fresh, kept)
        shutil.rmtree(old)
    else:
        fresh.rename(kept)
    paths.sync_directory(str(kept.parent))


def _exchange(fresh: Path, kept: Path) -> Path:
    """Give *fresh* the name of *kept*; return where the latter is now."""
    try:
        paths.rename(-1, str(fresh), -1, str(kept), flags=paths.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # NFS cannot: for a moment there is none, and the next `apply` would write it again.
        old = kept.with_name(".ephemeroot.old")
        shutil.rmtree(old, ignore_errors=True)
        kept.rename(old)
        fresh.rename(kept)
        return old
    return fresh


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
