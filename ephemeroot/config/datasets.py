"""Checks of ZFS datasets that are volumes: whether a boot can mount them.

There are no checks if zfs(8) is missing or the pool is not imported: it may be on another machine.
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
            f"cannot mount {dataset}: it is a {facts['type']}, not a filesystem",
            f'set device = "/dev/zvol/{dataset}", and type to that of the filesystem in it',
        )
    is_legacy = facts["mountpoint"] == "legacy"
    if is_legacy and _ZFSUTIL in options:
        raise Mistake(
            f"cannot mount {dataset} with {_ZFSUTIL}: it has mountpoint=legacy",
            f'remove "{_ZFSUTIL}" from its options',
        )
    if not is_legacy and _ZFSUTIL not in options:
        raise Mistake(
            f"cannot mount {dataset} without {_ZFSUTIL}: it has mountpoint={facts['mountpoint']}",
            f'add "{_ZFSUTIL}" to its options',
        )


def require_writable(dataset: str) -> None:
    """Raise ``Mistake`` if *dataset* has the property readonly=on, its own or an inherited one."""
    if (_facts(dataset) or {}).get("readonly") == "on":
        raise Mistake(
            f"the dataset {dataset} has readonly=on",
            f"zfs set readonly=off {shell.quoted(dataset)}",
        )


def _facts(dataset: str) -> dict[str, str] | None:
    """Properties of *dataset*; ``None`` if its pool does not have it, empty if it is not known."""
    try:
        words = ("-Hpo", "property,value", "type,mountpoint,readonly", dataset)
        output = programs.run("zfs", "get", *words)
    except EphemerootError:
        pool = dataset.partition("/")[0]
        try:
            programs.run("zpool", "list", "-Ho", "name", pool)
        except EphemerootError:
            return {}
        return None
    rows = [line.partition("\t") for line in output.splitlines()]
    return {key: value for key, _, value in rows}
