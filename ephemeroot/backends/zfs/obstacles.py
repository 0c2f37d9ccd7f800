"""Obstacles that prevent a new root at the next boot, as far as the system can predict them."""

from __future__ import annotations

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.wipers.zfs import listing, proofs, rollback
from ephemeroot.wipers.zfs.datasets import Dataset
from ephemeroot.wipers.zfs.history import DatasetHistory


def look(history: DatasetHistory) -> list[EphemerootError]:
    """The refusals that the wipe would end with. Changes nothing."""
    name = history.source.partition("@")[0]
    found = listing.look(history.root, name, history.source)
    root = found.get(history.root)
    if root is None:
        return []  # another root runs: it is for that one to say
    try:
        if history.old_roots:
            proofs.rotation(history, name, found, root)
        elif history.source not in found:
            return [rollback.missing_snapshot(root, history.source, listing.look)]
        else:
            return _rollback(root, found[history.source])
    except Refused as error:
        return [error]
    return []


def _rollback(root: Dataset, blank: Dataset) -> list[EphemerootError]:
    """What forbids the rollback of *root* to its snapshot *blank*."""
    later = {
        snapshot: facts
        for snapshot, facts in listing.snapshots(root.name).items()
        if facts[0] > blank.createtxg
    }
    refused = [
        {"what": "held", "name": snapshot, "by": tag}
        for snapshot, (_, holds, _) in later.items() if holds
        for tag in listing.holds(snapshot)
    ]  # fmt: skip
    refused += [
        {"what": "cloned", "name": snapshot, "by": clone}
        for snapshot, (_, _, clones) in later.items()
        for clone in clones
    ]
    refused += [
        {"what": "bookmark", "name": mark, "by": ""}
        for mark, born in listing.bookmarks(root.name).items()
        if born > blank.createtxg
    ]
    if 0 < root.refquota < blank.referenced:
        refused.append({"what": "refquota", "name": root.name, "by": ""})
    errors: list[EphemerootError] = []
    if refused:
        errors.append(rollback.refusal(root.name, blank.name, refused))
    if later and not root.state:
        errors.append(rollback.first_refusal(root.name, blank.name, list(later)))
    return errors
