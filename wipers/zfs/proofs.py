"""Proofs before the rotation of a ZFS root. Nothing is changed here.

Everything is refused that would make the new root useless, or the old one undeletable.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import programs, shell
from ephemeroot.wipers.zfs import datasets
from ephemeroot.wipers.zfs.rollback import missing_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.zfs.datasets import Dataset
    from ephemeroot.wipers.zfs.history import DatasetHistory


def pool(name: str) -> str:
    """The ``bootfs`` of the pool *name*, ``-`` for none. Raises ``Refused`` for an altroot."""
    said = programs.run("zpool", "get", "-Ho", "value", "bootfs,altroot", name).splitlines()
    if len(said) > 1 and said[1] not in ("-", ""):
        word = shell.quoted(name)
        raise Refused(
            f"the pool {name} is imported below {said[1]}",
            f"its mount points cannot be copied: 'zpool export {word} && zpool import -N {word}'",
        )
    return said[0] if said else "-"


def rotation(
    history: DatasetHistory, base: str, found: dict[str, Dataset], previous: Dataset
) -> None:
    """The root *previous* can make room for a clone of ``history.source``, a snapshot of *base*.

    *found* is what there is of all these (``datasets.look``). Raises ``Refused``.
    """
    root = history.root
    children = sorted(history.children(root))
    if children:
        raise Refused(
            f"the root {root} has datasets in it ({', '.join(children[:3])}): they would "
            "be renamed with it",
            f"'zfs rename {shell.quoted(children[0])} NAME' moves one beside the root",
        )
    if previous.canmount == "on" and previous.mountpoint not in ("legacy", "none"):
        raise Refused(
            f"{root} has canmount=on: 'zfs mount -a' would mount its old roots over it",
            f"zfs set canmount=noauto {shell.quoted(root)}",
        )
    _base(history, base, found, previous)
    _container(history, previous)


def _base(history: DatasetHistory, name: str, found: dict[str, Dataset], previous: Dataset) -> None:
    base = found.get(name)
    if base is None:
        raise Refused(
            f"the base {name} does not exist",
            f"'zfs list -r {shell.quoted(datasets.pool(name))}' lists the datasets; set base",
        )
    origin = base.origin.partition("@")[0]
    for above in (history.root, history.old_roots):
        if origin and datasets.is_below(origin, above):
            raise Refused(
                f"the base {name} is a clone of {base.origin}: another dataset was promoted over "
                "it",
                f"zfs promote {shell.quoted(name)}",
            )
    if history.source not in found:
        raise missing_snapshot(base, history.source, history.look)
    if 0 < previous.refquota < found[history.source].referenced:
        raise Refused(
            f"{history.source} is larger than the refquota of {history.root}",
            f"zfs set refquota=none {shell.quoted(history.root)}",
        )
    _require_apart("the base", base, previous)
    if base.encryption_root != previous.encryption_root:
        raise Refused(
            f"the base {name} has {_encryption(base)}, the root {history.root} has "
            f"{_encryption(previous)}",
            _key_hint(previous, "create the base under the root's encryption root"),
        )


def _require_apart(what: str, found: Dataset, previous: Dataset) -> None:
    """Raise ``Refused`` if 'zfs mount -a' would mount *found* over the root *previous*."""
    points = {"/", previous.mountpoint} - {"legacy", "none"}
    if found.canmount == "on" and found.mountpoint in points:
        raise Refused(
            f"{what} {found.name} has canmount=on and mountpoint={found.mountpoint}: "
            "'zfs mount -a' would mount it over the root",
            f"zfs set canmount=noauto {shell.quoted(found.name)}",
        )


def _container(history: DatasetHistory, previous: Dataset) -> None:
    """A dataset can only be renamed to where its key is."""
    place = history.old_roots
    found = history.container()
    if found is None:
        place = place.rpartition("/")[0]
        found = history.look(place).get(place)
        if found is None:
            raise Refused(
                f"there is no dataset {place} for old-roots",
                f"'zfs create -o mountpoint=none {shell.quoted(place)}', or name another place",
            )
    else:
        _require_apart("old-roots", found, previous)
    if found.encryption_root != previous.encryption_root:
        raise Refused(
            f"old-roots in {place} has {_encryption(found)}, the root {history.root} has "
            f"{_encryption(previous)}",
            _key_hint(previous, "name an old-roots dataset under the root's encryption root"),
        )


def requested(history: DatasetHistory, request: str) -> str:
    """The dataset of the old root that was asked for. Raises ``Refused`` if there is none."""
    try:
        entry = history.find(request)
        history.facts(entry)
    except EphemerootError as error:
        raise Refused(
            f"cannot boot the old root {request!r}: {error.message}",
            "run 'ephemeroot roots list' to list the old roots",
        ) from error
    return history.path(entry)


def _key_hint(previous: Dataset, hint: str) -> str:
    if previous.encryption_root == previous.name:
        return (
            "move the root into an encrypted dataset and let it inherit the key: see docs/zfs.md, "
            "'An encrypted root'"
        )
    return f"a clone has the key of its origin: {hint}"


def _encryption(found: Dataset) -> str:
    if not found.encryption_root:
        return "no encryption"
    return f"the encryption root {found.encryption_root}"
