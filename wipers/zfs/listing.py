"""What zfs(8) lists of datasets: how the installed system reads.

A channel program is refused on a pool that is imported read-only, and each one, whether it changes
anything or not, is written into the pool's history (``allow_log`` in OpenZFS's
module/zfs/zfs_ioctl.c). The boot uses channel programs, which cost it no process.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import programs
from ephemeroot.wipers.zfs import channel, datasets
from ephemeroot.wipers.zfs.datasets import Dataset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MISSING = ("dataset does not exist", "no such pool")
_SUSPENDED = "I/O is currently suspended"
_NUMBERS = ("createtxg", "creation", "referenced", "refquota", "used", "available", "written")
_TEXTS = ("type", "origin", "encryptionroot", "keystatus", "canmount", "mountpoint")


def look(*names: str) -> dict[str, Dataset]:
    """As ``datasets.look``."""
    found = {}
    for name in names:
        text = _zfs("get", "-Hp", "-o", "property,value,source", "all", name)
        if text is not None:
            found[name] = Dataset(name, _facts(text))
    return found


def children(name: str) -> dict[str, tuple[str, int]]:
    """As ``datasets.children``."""
    words = ("-Hp", "-d", "1", "-t", "filesystem,volume", "-o", "name,type,createtxg")
    text = _zfs("list", *words, name) or ""
    rows = [line.split("\t") for line in text.splitlines()]
    return {child: (kind, int(born)) for child, kind, born in rows if child != name}


def sizes(name: str) -> dict[str, tuple[int, int]]:
    """The filesystems directly in *name*: ``createtxg``, and the bytes that only each has."""
    words = ("-Hp", "-d", "1", "-t", "filesystem", "-o", "name,createtxg,used")
    rows = [line.split("\t") for line in (_zfs("list", *words, name) or "").splitlines()]
    return {child: (int(born), int(used)) for child, born, used in rows if child != name}


def snapshots(name: str) -> dict[str, tuple[int, int, list[str]]]:
    """The snapshots of *name*, the oldest first: ``createtxg``, number of holds, and clones."""
    columns = "name,createtxg,userrefs,clones"
    words = ("-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", columns)
    rows = [line.split("\t") for line in (_zfs("list", *words, name) or "").splitlines()]
    return {
        snapshot: (int(born), int(holds), [] if clones in ("", "-") else clones.split(","))
        for snapshot, born, holds, clones in rows
    }


def bookmarks(name: str) -> dict[str, int]:
    """As ``channel.bookmarks``."""
    words = ("-Hp", "-d", "1", "-t", "bookmark", "-o", "name,createtxg")
    rows = [line.split("\t") for line in (_zfs("list", *words, name) or "").splitlines()]
    return {mark: int(born) for mark, born in rows}


def holds(snapshot: str) -> list[str]:
    """The tags of the holds of *snapshot*."""
    text = programs.run("zfs", "holds", "-H", snapshot)
    # Any text can be a tag, line ends and tabs included.
    return [row.rpartition("\t")[0] for row in text.split(f"{snapshot}\t")[1:]]


def _facts(text: str) -> dict[str, Any]:
    """The facts that ``Dataset`` takes. A value of a property may have tabs and line ends in it."""
    facts: dict[str, Any] = {"own": {}}
    for line in text.splitlines():
        key, _, rest = line.partition("\t")
        value, _, source = rest.rpartition("\t")
        if key.startswith("ephemeroot:") and source == "local":
            facts["own"].setdefault(key, value)
        elif key in facts or value == "-":
            continue
        elif key == "guid":
            number = int(value)  # a channel program shows it as a signed one
            facts[key] = number - (1 << 64) if number >= 1 << 63 else number
        elif key in _NUMBERS:
            facts[key] = int(value)
        elif key in _TEXTS:
            facts[key] = value
    return facts


def _zfs(verb: str, *words: str) -> str | None:
    """What zfs prints of the dataset that is the last of *words*; ``None`` if it does not exist.

    Raises ``Refused`` if the pool is not imported, or is suspended.
    """
    name = words[-1]
    pool = datasets.pool(name)
    try:
        return programs.run("zfs", verb, *words)
    except EphemerootError as error:
        if _SUSPENDED in error.message:
            raise channel.suspended(pool) from error
        if not any(text in error.message for text in _MISSING):
            raise
    try:
        programs.run("zpool", "list", "-Ho", "name", pool)
    except EphemerootError as error:
        raise channel.not_imported(pool) from error
    return None
