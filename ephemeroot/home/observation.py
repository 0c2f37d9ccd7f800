"""The present state of each declared entry."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from enum import Enum

from ephemeroot.config.syntax import clean
from ephemeroot.home import bindfs
from ephemeroot.home.model import Entry
from ephemeroot.home.view import View, is_dead, is_same, readlink
from ephemeroot.linux.mountinfo import Mount


class Condition(Enum):
    """The word that ``status`` shows. ``IN_PLACE`` has those that match the declaration."""

    MOUNTED = "mounted"
    LINKED = "linked"
    BY_SYSTEM = "by the system"
    MISSING = "missing"
    OUTDATED = "outdated"
    DEAD = "dead"
    IN_THE_WAY = "in the way"


IN_PLACE = (Condition.MOUNTED, Condition.LINKED, Condition.BY_SYSTEM)


@dataclass(frozen=True, slots=True)
class Finding:
    """An entry and its condition, with a ``reason`` and a ``hint`` (both may be empty).

    ``is_blocked``: the user must resolve it before it can be put in place.
    """

    entry: Entry
    condition: Condition
    reason: str = ""
    hint: str = ""
    is_blocked: bool = False

    @property
    def is_in_place(self) -> bool:
        """Whether it needs no change."""
        return self.condition in IN_PLACE


def observe(entry: Entry, view: View) -> Finding:
    """The state of the entry's target. Changes nothing, raises nothing."""
    finding = _target(entry, view)
    if finding.condition is Condition.IN_THE_WAY:
        return replace(finding, is_blocked=True)
    if finding.is_in_place:
        return finding
    return _source(entry) or finding


def _source(entry: Entry) -> Finding | None:
    """The finding if the store's side prevents a mount or link."""
    if not os.path.isdir(entry.store):
        reason = f"the store {entry.store} does not exist"
        hint = f"mount its volume, or run 'mkdir -p {entry.store}'"
    elif blocking := _blocking(entry):
        reason = f"in the store, {blocking} is not a directory"
        hint = "move it away, or remove the entry"
    elif os.path.exists(entry.source) and os.path.isdir(entry.source) != entry.is_directory:
        found, key = ("file", "files") if entry.is_directory else ("directory", "directories")
        reason = f"in the store, {entry.source} is a {found}"
        hint = f"declare it in {key}"
    else:
        return None
    return Finding(entry, Condition.MISSING, reason, hint, is_blocked=True)


def _blocking(entry: Entry) -> str:
    """The path above the entry's source that is not a directory; empty if there is none."""
    for path in clean.parents(entry.source):
        if clean.is_below(path, entry.store) and os.path.lexists(path) and not os.path.isdir(path):
            return path
    return ""


def _target(entry: Entry, view: View) -> Finding:
    mount = view.mount_at(entry.target)
    if mount is not None:
        return _mounted(entry, mount, view)
    try:
        mode = os.lstat(entry.target).st_mode
    except FileNotFoundError:
        return _absent(entry, view)
    except OSError as error:
        return _unreachable(entry, error)
    if stat.S_ISLNK(mode):
        return _link(entry, view)
    if is_same(entry.target, entry.source):
        return _by_system(entry)
    if stat.S_ISDIR(mode):
        return _directory(entry, view)
    return _file(entry, view)


def _mounted(entry: Entry, mount: Mount, view: View) -> Finding:
    if not view.is_ours(mount, entry.source):
        if is_same(entry.target, entry.source):
            return _by_system(entry)
        return Finding(
            entry,
            Condition.IN_THE_WAY,
            f"{mount.source} ({mount.fstype}) is mounted there",
            "unmount it, or remove the entry",
        )
    if is_dead(entry.target):
        return Finding(entry, Condition.DEAD, "its bindfs process has ended")
    if not entry.is_mounted:
        return Finding(entry, Condition.OUTDATED, "it is still mounted")
    if not view.shows(mount, entry.source):
        return Finding(entry, Condition.OUTDATED, f"it is mounted from {mount.source}")
    if bindfs.allows_other(mount) != entry.allow_other:
        others = "let in" if bindfs.allows_other(mount) else "kept out"
        return Finding(entry, Condition.OUTDATED, f"other users are {others}")
    return Finding(entry, Condition.MOUNTED)


def _by_system(entry: Entry) -> Finding:
    return Finding(entry, Condition.BY_SYSTEM, "the system already provides it", "remove the entry")


def _absent(entry: Entry, view: View) -> Finding:
    if is_same(entry.target, entry.source):
        return Finding(
            entry,
            Condition.BY_SYSTEM,
            "its directory already comes from the store",
            "remove the entry",
        )
    for path in clean.parents(entry.target):
        # Our own files are removed before anything is created.
        if os.path.islink(path) and not os.path.exists(path) and not view.is_our_link(path):
            return Finding(
                entry,
                Condition.IN_THE_WAY,
                f"{path} is a link to {readlink(path)}, which does not exist",
                f"create its target, or run 'rm {path}'",
            )
    return Finding(entry, Condition.MISSING)


def _unreachable(entry: Entry, error: OSError) -> Finding:
    if error.errno == errno.ENOTCONN:  # inside a dead mount
        return Finding(entry, Condition.MISSING)
    if error.errno == errno.ENOTDIR:
        ancestor = os.path.dirname(entry.target)
        while not os.path.lexists(ancestor):
            ancestor = os.path.dirname(ancestor)
        return Finding(
            entry, Condition.IN_THE_WAY, f"{ancestor} is not a directory", "move it elsewhere"
        )
    return Finding(entry, Condition.IN_THE_WAY, f"cannot read the target: {error.strerror}")


def _link(entry: Entry, view: View) -> Finding:
    leads = readlink(entry.target)
    if leads == entry.source and not entry.is_mounted:
        reason = "" if os.path.exists(entry.source) else "it is not in the store yet"
        return Finding(entry, Condition.LINKED, reason)
    if leads == entry.source:
        return Finding(entry, Condition.OUTDATED, "the target is still a link")
    if view.is_our_link(entry.target):
        return Finding(entry, Condition.OUTDATED, f"the link leads to {leads}")
    return Finding(
        entry,
        Condition.IN_THE_WAY,
        f"the target is a link to {leads}, not created by ephemeroot",
        "remove the link, or the entry",
    )


def _directory(entry: Entry, view: View) -> Finding:
    if not entry.is_directory:
        return Finding(
            entry, Condition.IN_THE_WAY, "the target is a directory", "declare it in directories"
        )
    foreign = [m for m in view.mounts_below(entry.target) if not view.is_ours(m)]
    if foreign:
        return Finding(
            entry,
            Condition.IN_THE_WAY,
            f"{foreign[0].source} ({foreign[0].fstype}) is mounted under it, on {foreign[0].point}",
            "unmount it, or remove the entry",
        )
    try:
        empty = view.has_only_ours(entry.target)
    except OSError as error:
        return Finding(entry, Condition.IN_THE_WAY, f"cannot read the target: {error.strerror}")
    if not empty:
        return Finding(
            entry,
            Condition.IN_THE_WAY,
            "the target is a directory that is not empty",
            f"move its content to {entry.source}",
        )
    return Finding(entry, Condition.MISSING)


def _file(entry: Entry, view: View) -> Finding:
    if entry.target in view.record.links:
        return Finding(
            entry,
            Condition.IN_THE_WAY,
            "a program has replaced the link by a file, whose content is not in the store",
            f"compare it with {entry.source}, then move it there",
        )
    return Finding(
        entry, Condition.IN_THE_WAY, "the target is a file", f"move it to {entry.source}, or away"
    )
