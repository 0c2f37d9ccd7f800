"""Everything that could not be seeded: recorded in the store until the administrator has resolved
it.

The old root that still has it is marked ``.keep``. A path of which the store has nothing is not in
effect: an empty directory in the store would count as its content from then on.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks import limits, records, tree
from ephemeroot.hooks.omission import Omission, adopt_line
from ephemeroot.hooks.parents import Parents
from ephemeroot.hooks.records import STATE
from ephemeroot.hooks.stage import WIPED
from ephemeroot.hooks.store import booted
from ephemeroot.linux import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

UNSAVED = "unsaved"
"""In the record ``WIPED``: targets whose previous root is not the root of this boot, and could not
be handed over.
"""

RECORD = f"{STATE}/unseeded"
VERSION = 1


def read(store: int, path: str) -> list[Omission]:
    """The record of the open *store* that is called *path*.

    Raises ``Damaged`` if it cannot be understood, ``OSError`` if it cannot be read.
    """
    try:
        raw = records.read(store, RECORD)
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return []
        raise
    try:
        content = documents.parse(raw)
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']!r}")
        return [_parse(item, path) for item in content["entries"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(
            f"the record {RECORD} in the store {path} is damaged: {error}",
            f"read it, then run 'rm {path}/{RECORD}'",
        ) from None


def _parse(item: dict[str, object], store: str) -> Omission:
    found = Omission(str(item["path"]), store, str(item["source"]), str(item["reason"]))
    found.whole = item["whole"] is True
    files = item["files"]
    if not isinstance(files, list) or not isinstance(item["count"], int):
        raise ValueError("files or count has the wrong type")
    found.files = [(str(name), str(reason)) for name, reason in files[: limits.NAMED]]
    found.count = item["count"]
    found.target = str(item["target"])
    found.root = str(item["root"])
    found.retired = item["retired"] is True
    return found


def write(store: int, omissions: list[Omission]) -> None:
    """Replace the record of the open *store*; no record if there is nothing to say.

    It is durable only when the store is synced.
    """
    if not omissions:
        records.remove(store, RECORD)
        return
    content = {"version": VERSION, "entries": [omission.to_json() for omission in omissions]}
    records.write(store, RECORD, documents.dump(content) + b"\n")


def add(store: int, path: str, found: list[Omission], target: str, root: str) -> bool:
    """Record the omissions *found* while the old root of *target* was handed
    over. *root* is its present or later name, empty if it is never retired. Return whether it must
    be marked ``.keep``.

    For one path one old root is kept: otherwise a user could have all of them kept, one boot
    after the other.
    """
    known = read(store, path)
    keep = False
    for omission in found:
        other = next((o for o in known if (o.source, o.target) == (omission.source, target)), None)
        if other is not None and other.retired and other.root != root:
            continue
        if other is not None:
            known.remove(other)
        omission.target = target
        known.append(omission)
        keep = True
    for omission in known:
        # That of a boot whose power went, or whose wipe failed, before the root had its name.
        if omission.target == target and (not omission.retired or omission.root == root):
            omission.root = root
            omission.retired = not root  # without a name it is the installed root, which stays
            keep = True
    if keep:
        write(store, known)
    return keep


def settle(store: int, path: str, target: str, root: str) -> None:
    """Record that the old root *root* of *target* has its name and is kept."""
    known = read(store, path)
    found = [o for o in known if o.target == target and o.root == root and not o.retired]
    for omission in found:
        omission.retired = True
    if found:
        write(store, known)


def forget(store: int, path: str, *, target: str = "", root: str = "", source: str = "") -> int:
    """Remove records of the old root *root* of *target*, or of *source*; return their number."""
    known = read(store, path)
    stays = []
    for one in known:
        of_root = root and (one.target, one.root) == (target, root)
        if not of_root and not (source and one.source == source):
            stays.append(one)
    if len(stays) < len(known):
        write(store, stays)
    return len(known) - len(stays)


class Lack:
    """The treatment of a declared *path* that its store lacks in the persistence stage.

    ``may_seed``: it may be seeded from the root that is mounted. ``error``: if it is not, nothing
    may be created in its place, because it would be taken for the content; ``None`` if it may begin
    empty.
    """

    __slots__ = ("error", "may_seed")

    def __init__(self, *, may_seed: bool, error: EphemerootError | None = None) -> None:
        self.may_seed = may_seed
        self.error = error

    def require(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error


def lack(stage: Stage, path: str, store: str, source: str, initial: str) -> Lack:
    """Judge *path*, which *store* lacks as *source*; *initial* is where its content comes from."""
    if initial != "previous":
        return Lack(may_seed=initial == "fresh")
    fresh = stage.is_fresh(path)
    other = (not fresh and _is_elsewhere(stage, path)) or _is_in_layer(stage, path)
    for omission in read(stage.store(store), store):
        if omission.source == source and omission.whole:
            error = EphemerootError(
                f"{path} is not in effect: it could not be seeded ({omission.reason})",
                omission.hint(),
            )
            # A kept root is the one that the administrator sees.
            return Lack(may_seed=not fresh and not other, error=error)
    if other:
        error = EphemerootError(
            f"{path} is not in effect in this boot: it is not in the store, and the root that may "
            "have it was not booted",
            adopt_line(path),
        )
        return Lack(may_seed=False, error=error)
    return Lack(may_seed=True)


def _is_in_layer(stage: Stage, path: str) -> bool:
    """Whether the boot before has left *path* in a layer, and this one could not use it."""
    root = stage.plan.root_wipe()
    if root is None or stage.wiped_above(path) != root.target or not booted.fell_back(stage):
        return False
    return root.load().keeps and not booted.was_kept(stage)


def _is_elsewhere(stage: Stage, path: str) -> bool:
    """Whether what the boot before had at *path* is not in the root of this one."""
    target = stage.wiped_above(path)
    if target is None:
        return False
    unsaved = (stage.recall(WIPED) or {}).get(UNSAVED)
    if isinstance(unsaved, list) and target in unsaved:
        return True
    wipe = next((wipe for wipe in stage.plan.wipes() if wipe.target == target), None)
    if wipe is None or wipe.load().boots_previous:
        return False
    return not booted.was_kept(stage)  # two kept boots in a row have the same root


def is_missing(root: int, omission: Omission) -> bool:
    """Whether the open store *root* still lacks all of what *omission* is about."""
    if not omission.whole:
        return False
    if omission.source in Parents(root):
        return True
    try:
        parent, name = tree.open_parent(root, omission.source)
    except OSError:
        return True
    try:
        return not tree.exists(parent, name)
    finally:
        os.close(parent)
