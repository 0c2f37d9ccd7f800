"""The operations that turn the present state of a home into the declared one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ephemeroot.config.syntax import clean
from ephemeroot.home.exposure import counterparts
from ephemeroot.home.model import Entry
from ephemeroot.home.observation import Condition, Finding, observe
from ephemeroot.home.operations import (
    MakeDirectory,
    MakeLink,
    MountDirectory,
    Operation,
    RemoveDirectory,
    RemoveLink,
    Unmount,
    Work,
)
from ephemeroot.home.view import View, is_dead, readlink


@dataclass(slots=True)
class Changes:
    """``removals`` run first, children before their parents; then ``additions``, each entry with
    its operations, parents first. ``blocked`` are entries that are left alone.
    """

    findings: tuple[Finding, ...]
    removals: list[Operation] = field(default_factory=list)
    additions: list[tuple[Entry, list[Operation]]] = field(default_factory=list)

    @property
    def blocked(self) -> list[Finding]:
        """Findings that the user must resolve."""
        return [finding for finding in self.findings if finding.is_blocked]


def adopt(entries: Iterable[Entry], view: View) -> None:
    """Record mounts and links that a run created just before a crash."""
    for entry in entries:
        mount = view.mount_at(entry.target)
        if mount is not None and entry.target not in view.record.mounts:
            if view.is_ours(mount, entry.source):
                view.record.mounts[entry.target] = view.remember(mount, entry.source)
        elif mount is None and readlink(entry.target) == entry.source:
            view.record.links[entry.target] = entry.source


def between(work: Work, entries: Sequence[Entry]) -> Changes:
    """The changes that make the home of *work* match *entries* (parents first)."""
    view = work.view
    findings = [observe(entry, view) for entry in entries]
    changing = {f.entry.target: f.entry for f in findings if not (f.is_in_place or f.is_blocked)}
    removals = _Removals(work, {entry.target for entry in entries}, changing)
    changes = Changes(tuple(findings), removals.operations())
    addition = _Addition(work, changes.removals)
    for number, finding in enumerate(findings):
        entry = finding.entry
        if removals.turns(entry.target):
            # It will be removed: it is created again, or blocked by another file.
            if finding.condition is Condition.IN_THE_WAY or finding.is_in_place:
                findings[number] = Finding(entry, Condition.MISSING)
        if not (findings[number].is_in_place or findings[number].is_blocked):
            changes.additions.append((entry, list(addition.operations(entry))))
    changes.findings = tuple(findings)
    return changes


def leftovers(work: Work, entries: Iterable[Entry]) -> list[Operation]:
    """The removal of our mounts, links and directories that are not declared any more."""
    return _Removals(work, {entry.target for entry in entries}, {}).operations()


class _Removals:
    """The removals: our mounts, links and directories that are not declared, have changed in the
    declaration, or are inside a directory whose content will change.

    *changing* are the declared entries that are not in place.
    """

    def __init__(self, work: Work, declared: set[str], changing: dict[str, Entry]) -> None:
        self.work = work
        self.view = view = work.view
        self.record = view.record
        self.declared = declared
        self.changing = changing
        present = {
            path: mounted.source
            for path, mounted in self.record.mounts.items()
            if (mount := view.mount_at(path)) is not None and view.is_ours(mount)
        }
        going = {path for path in present if path not in declared or path in changing}
        links = {path for path in self.record.links if path not in declared}
        self.turning = going | set(changing) | {p for p in links if view.is_our_link(p)}
        self.dead = {path for path in going if is_dead(path)}
        self.mounts = {p: s for p, s in present.items() if p in going or self.turns(p)}

    def turns(self, path: str) -> bool:
        """Whether *path* is inside a directory whose content will change."""
        return any(path != other and clean.is_below(path, other) for other in self.turning)

    def operations(self) -> list[Operation]:
        """The operations in their order."""
        found: list[Operation] = [*self._unmounts(), *self._links(), *self._directories()]
        # The unmount comes before the removal of its directory, which has the same path.
        found.sort(key=lambda operation: isinstance(operation, RemoveDirectory))
        found.sort(key=lambda operation: clean.components(operation.path), reverse=True)
        return found

    def _unmounts(self) -> Iterable[Operation]:
        for path, source in self.mounts.items():
            # Mounts inside a dead mount cannot be reached, and end with it.
            if not any(path != dead and clean.is_below(path, dead) for dead in self.dead):
                yield Unmount(self.work, path, source)

    def _links(self) -> Iterable[Operation]:
        for path, source in self.record.links.items():
            if self.view.is_our_link(path):
                if path not in self.declared or path in self.changing or self.turns(path):
                    yield RemoveLink(self.work, path, source)
            elif self.view.is_set_aside(path):
                yield RemoveLink(self.work, path, source)

    def _directories(self) -> Iterable[Operation]:
        needed = {path for target in self.declared for path in clean.parents(target)}
        needed |= self.declared - {p for p, e in self.changing.items() if not e.is_mounted}
        for path in self.record.directories:
            # The Keeper removes the directories of the record itself.
            if clean.is_below(self.view.user.state, path):
                continue
            if path in self.mounts or self.view.is_our_directory(path):
                if path not in needed or self.turns(path):
                    yield RemoveDirectory(self.work, path)


class _Addition:
    """Operations that put entries in place after *removals*; tracks the resulting directories."""

    def __init__(self, work: Work, removals: Sequence[Operation]) -> None:
        self.work = work
        self.home = work.view.user.home
        self.gone = {o.path for o in removals if isinstance(o, (RemoveLink, RemoveDirectory))}
        self.made: set[str] = set()
        self.mounted: dict[str, str] = {}

    def operations(self, entry: Entry) -> Iterable[Operation]:
        """The operations for one entry; call it for parents first."""
        source = entry.source if entry.is_directory else os.path.dirname(entry.source)
        in_home = dict(counterparts(entry, self.home))
        in_store = {home: store for store, home in in_home.items()}
        for path in [*clean.parents(source), source]:
            if clean.is_below(path, entry.store) and not self._is_directory(path):
                yield self._make(path, in_home.get(path, ""), in_store=True)
        for path in clean.parents(entry.target):
            if not self._is_directory(path):
                yield self._make(path, in_store.get(path, ""))
        if entry.is_mounted:
            if not self._is_directory(entry.target):
                yield self._make(entry.target, entry.source)
            self.mounted[entry.target] = entry.source
            yield MountDirectory(self.work, entry)
            return
        if self._is_directory(entry.target):
            yield RemoveDirectory(self.work, entry.target, any_empty=True)
        yield MakeLink(self.work, entry)

    def _make(self, path: str, like: str, *, in_store: bool = False) -> MakeDirectory:
        self.made.add(path)
        return MakeDirectory(self.work, path, like, in_store=in_store)

    def _is_directory(self, path: str) -> bool:
        """Whether *path* will be a directory before the operations of this entry."""
        if path in self.made:
            return True
        above = [target for target in self.mounted if clean.is_below(path, target)]
        if above:
            target = max(above, key=len)
            return path == target or os.path.isdir(self.mounted[target] + path[len(target) :])
        if any(clean.is_below(path, gone) for gone in self.gone):
            return False
        return os.path.isdir(path)
