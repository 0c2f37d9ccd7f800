"""What would keep the next boot from making a new root, as the installed system can know it."""

from __future__ import annotations

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.wipers.zfs import listing, proofs, rollback
from ephemeroot.wipers.zfs.history import DatasetHistory


def look(history: DatasetHistory) -> list[EphemerootError]:
    """The refusals that the wipe would end with. Changes nothing."""
    name, _, short = history.source.partition("@")
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
            return _later(root.name, f"{root.name}@{short}", found[history.source].createtxg,
                          first=not root.state)  # fmt: skip
    except Refused as error:
        return [error]
    return []


def _later(root: str, blank: str, since: int, *, first: bool) -> list[EphemerootError]:
    """What is newer than the blank snapshot and forbids the rollback."""
    later = {
        snapshot: facts for snapshot, facts in listing.snapshots(root).items() if facts[0] > since
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
        for mark, born in listing.bookmarks(root).items()
        if born > since
    ]
    errors: list[EphemerootError] = []
    if refused:
        errors.append(rollback.refusal(root, blank, refused))
    if later and first:
        errors.append(rollback.first_refusal(root, blank, list(later)))
    return errors
