"""Conflicts between declarations of a user."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ephemeroot.config.records import Reading
from ephemeroot.config.syntax import clean
from ephemeroot.home.model import Entry, parents_first
from ephemeroot.home.user import User


def check(user: User, file: str, entries: Sequence[Entry], reading: Reading) -> None:
    """Report every conflict once, at the later declaration. They come from *file*."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.target in first:
            _twice(user, entry, first[entry.target], reading)
        else:
            first[entry.target] = entry
    for entry in parents_first(first.values()):
        _check_stores(user, entry, list(first.values()), reading)
        _check_ancestors(user, entry, first, reading)
        if not entry.is_directory and clean.is_below(user.state, entry.target):
            reason = (
                f"{user.short(entry.target)} must be a directory: the record of 'ephemeroot home' "
                "is in it"
            )
            reading.add(entry.place, reason, "declare it in directories, or set XDG_STATE_HOME")
        if entry.is_mounted and clean.is_below(os.path.abspath(file), entry.target):
            reading.add(
                entry.place,
                f"{user.short(entry.target)} contains this configuration file, which must be "
                "readable before the mount",
                "declare the directories beside it, or keep it in the store and use --config",
            )


def _twice(user: User, entry: Entry, other: Entry, reading: Reading) -> None:
    target = user.short(entry.target)
    reading.add(entry.place, f"{target} is declared twice", f"remove one; see {other.place}")


def _check_ancestors(user: User, entry: Entry, known: dict[str, Entry], reading: Reading) -> None:
    for path in clean.parents(entry.target):
        above = known.get(path)
        if above is None:
            continue
        target, other = user.short(entry.target), user.short(above.target)
        if not above.is_directory:
            reason = f"{target} is under {other}, which is declared as a file"
            reading.add(entry.place, reason, f"declare {other} in directories; see {above.place}")
        elif not above.is_mounted:
            reason = f"{target} is under {other}, which is a link into the store"
            reading.add(entry.place, reason, f"remove the entry; see {above.place}")
        elif above.source + entry.target[len(above.target) :] == entry.source:
            reason = f"{target} is under {other}, which persists in the same store"
            reading.add(entry.place, reason, f"remove the entry; see {above.place}")
        elif entry.is_mounted and not above.allow_other:
            # fusermount is setuid root, and FUSE denies access to other users, root too (fuse(4)).
            reason = f"{target} cannot be mounted inside of {other}, which root cannot access"
            hint = f'use method = "symlink", or allow-other where {other} is declared'
            reading.add(entry.place, reason, f"{hint}; see {above.place}")


def _check_stores(user: User, entry: Entry, others: Sequence[Entry], reading: Reading) -> None:
    """A mount or link must not contain itself, nor hide its own store."""
    short = user.short(entry.target)
    for source in _sources(entry):
        if clean.is_below(entry.target, source):
            if source == entry.target:
                reason = f"{short} is already in the store: store and home are the same directory"
            else:
                reason = f"{short} would be inside itself: its source is {entry.source}"
            reading.add(entry.place, reason, "use a store that does not contain the home")
            return
        for other in others:
            if clean.is_below(source, other.target):
                reading.add(
                    entry.place,
                    f"the source of {short} is in {user.short(other.target)}, which is declared, "
                    "too",
                    f"move the store out of it, or remove that entry; see {other.place}",
                )
                return


def _sources(entry: Entry) -> Iterable[str]:
    """The source of the entry as written, and with the path of the store resolved.

    Links in the home are not resolved: they may be Ephemeroot's own, which change.
    """
    below = entry.source[len(entry.store.rstrip("/")) :]
    return dict.fromkeys((entry.source, os.path.realpath(entry.store).rstrip("/") + below))
