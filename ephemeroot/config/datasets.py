"""What ZFS says of a dataset that is a volume: a boot could not mount some of them.

Nothing is said where zfs(8) is missing, or the pool is not imported: it may be another machine's.
"""

from __future__ import annotations

from collections.abc import Sequence

from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import EphemerootError
from ephemeroot.linux import programs, shell

_ZFSUTIL = "zfsutil"


def require_mountable(dataset: str, options: Sequence[str]) -> None:
    """Raise ``Mistake`` unless mount.zfs(8) can mount *dataset* with these *options*."""
    facts = _facts(dataset)
    if facts is None:
        raise Mistake(
            f"the dataset {dataset} does not exist",
            f"zfs create -o mountpoint=legacy {shell.quoted(dataset)}",
        )
    if not facts:
        return
    if facts["type"] != "filesystem":
        raise Mistake(
            f"{dataset} is a {facts['type']}, not a filesystem",
            f'set device = "/dev/zvol/{dataset}", and the type of the filesystem in it',
        )
    is_legacy = facts["mountpoint"] == "legacy"
    if is_legacy and _ZFSUTIL in options:
        raise Mistake(
            f"{dataset} has mountpoint=legacy and cannot be mounted with {_ZFSUTIL}",
            f'leave "{_ZFSUTIL}" out of its options',
        )
    if not is_legacy and _ZFSUTIL not in options:
        has = f"mountpoint={facts['mountpoint']}"
        raise Mistake(
            f"{dataset} has {has} and can only be mounted with {_ZFSUTIL}",
            f'add "{_ZFSUTIL}" to its options',
        )


def require_writable(dataset: str) -> None:
    """Raise ``Mistake`` if *dataset* is read-only by a property of its own or an inherited one."""
    if (_facts(dataset) or {}).get("readonly") == "on":
        raise Mistake(
            f"the dataset {dataset} has readonly=on",
            f"zfs set readonly=off {shell.quoted(dataset)}",
        )


def _facts(dataset: str) -> dict[str, str] | None:
    """Properties of *dataset*; ``None`` if its pool does not have it, empty if that is unknown."""
    try:
        words = ("-Hpo", "property,value", "type,mountpoint,readonly", dataset)
        said = programs.run("zfs", "get", *words)
    except EphemerootError:
        pool = dataset.partition("/")[0]
        try:
            programs.run("zpool", "list", "-Ho", "name", pool)
        except EphemerootError:
            return {}
        return None
    rows = [line.partition("\t") for line in said.splitlines()]
    return {key: value for key, _, value in rows}
