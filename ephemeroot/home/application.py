"""Applying a configuration to the home, and undoing it; one run at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ephemeroot.errors import EphemerootError, Locked
from ephemeroot.execution import Action, Execution, Result, reason
from ephemeroot.home import changes
from ephemeroot.home.changes import Changes
from ephemeroot.home.model import Entry
from ephemeroot.home.observation import Finding, observe
from ephemeroot.home.operations import Operation, Unmount, Work
from ephemeroot.home.record import Keeper
from ephemeroot.home.user import User
from ephemeroot.home.view import View


@contextmanager
def exclusive(user: User) -> Iterator[None]:
    """Hold the lock of the user's home. Raises ``Locked`` if another run has it.

    If neither the home nor the user's runtime directory can be locked, there is no lock. Each
    operation checks the state again before a change, so parallel runs only delay each other.
    """
    # The lock is on a directory, because a mount could hide a lock file in the home. NFS cannot
    # lock directories (EBADF).
    fd = _lock(user.home)
    if fd is None:
        fd = _lock(f"/run/user/{user.uid}")
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def _lock(path: str) -> int | None:
    """The descriptor that holds the lock on the directory, ``None`` if it cannot be locked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        hint = "wait until the other run ends, then run the command again"
        raise Locked(f"the home is in use by another run ({path} is locked)", hint) from None
    except OSError:
        os.close(fd)
        return None
    return fd


class Application:
    """One run in a home. *listener* is called after each operation.

    ``damage`` are faults of the record. Use it inside ``exclusive``, except for reading.
    """

    def __init__(
        self,
        user: User,
        entries: Sequence[Entry],
        *,
        wait: float = 0,
        dry_run: bool = False,
        listener: Callable[[Result], None] | None = None,
        stops: bool = False,
    ) -> None:
        """*entries* as declared, parents first; *stops*: they will be undone."""
        self.entries = list(entries)
        self.dry_run = dry_run
        self.execution = Execution(listener, dry_run=dry_run)
        sources = {entry.target: entry.source for entry in entries}
        self.keeper = Keeper(user, sources)
        self.damage = self.keeper.damage
        self.view = View(user, self.keeper.record)
        self.work = Work(self.view, wait)
        self.is_unrecorded = False
        changes.adopt(self.entries, self.view)
        self.keeper.expect(self.view.ours(), to_stay=stops)

    def apply(self) -> Changes:
        """Make the home match the entries; returns the changes."""
        # Saved before a mount hides the record: see Keeper.
        self._save(without={f.entry.target for f in self.findings() if f.is_blocked})
        found = changes.between(self.work, self.entries)
        self._remove(found.removals)
        failed = {finding.entry.target for finding in found.blocked}
        for entry, operations in found.additions:
            if not all(self._run(operation) for operation in operations):
                failed.add(entry.target)
        # A mount may reveal links that an earlier run made inside of it.
        self.view.look()
        self._remove(changes.leftovers(self.work, self.entries))
        self._forget(declared={entry.target for entry in self.entries})
        self._save(without=failed, is_last=True)
        return found

    def stop(self, *, everything: bool = False) -> None:
        """Unmount our mounts; with *everything*, remove our links and directories, too."""
        self._remove(
            operation
            for operation in changes.leftovers(self.work, ())
            if everything or isinstance(operation, Unmount)
        )
        if everything:
            self._forget(declared=set())
        self._save(is_last=True)

    def findings(self) -> list[Finding]:
        """The present state of each entry."""
        self.view.look()
        return [observe(entry, self.view) for entry in self.entries]

    def undeclared(self) -> dict[str, str]:
        """Our mounts and links that are not declared any more, with their sources."""
        paths = {operation.path for operation in changes.leftovers(self.work, self.entries)}
        return {p: s for p, s in sorted(self.view.record.sources().items()) if p in paths}

    def _remove(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            self._run(operation)

    def _run(self, operation: Operation) -> bool:
        """Run the operation; return whether it succeeded."""
        if not self.dry_run and operation.announce():
            self._save()
        done = not self.execution.one(operation).failed
        if done:
            self._save()
        return done

    def _save(self, *, without: Iterable[str] = (), is_last: bool = False) -> None:
        """Write the record. If that fails, the mounts stay: they are more useful than a record."""
        if self.dry_run or self.is_unrecorded:
            return
        try:
            self.keeper.save(without=without, is_last=is_last)
        except OSError as error:
            self.is_unrecorded = True
            hint = "existing links and mounts are recognised while they are declared"
            record = Action("record the links and mounts", str)
            failure = EphemerootError(reason(error), hint)
            self.execution.note(Result(record, record.line, error=failure))

    def _forget(self, *, declared: set[str]) -> None:
        """Remove entries from the record that no longer exist, except *declared* links."""
        view, record = self.view, self.view.record
        view.look()
        for path in list(record.mounts):
            mount = view.mount_at(path)
            if mount is None or not view.is_ours(mount):
                del record.mounts[path]
        for path in list(record.links):
            # Declared links stay, to report if a program replaces them.
            present = view.is_our_link(path) or view.is_set_aside(path)
            if path not in declared and not present:
                del record.links[path]
        for path in list(record.directories):
            if path not in record.mounts and not view.is_our_directory(path):
                del record.directories[path]
