"""The rotation of a ZFS root: prove, recover, clone, rename twice, prune.

ZFS cannot exchange two names, so there is an instant without a root: the clone under its
temporary name knows whose place it takes, and the next boot completes the interrupted step. Each
step is on the disk before the next one starts.
"""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import dataset_keys, programs, shell
from ephemeroot.wipers import names, retire
from ephemeroot.wipers.marks import NEW
from ephemeroot.wipers.rotation import Rotation
from ephemeroot.wipers.zfs import channel, clone, datasets, history, proofs
from ephemeroot.wipers.zfs.clone import BOOTFS, MOVED, OF, RESERVED
from ephemeroot.wipers.zfs.datasets import SYSTEM, Dataset, Private
from ephemeroot.wipers.zfs.history import SNAPSHOT, DatasetHistory
from ephemeroot.wipers.zfs.rollback import require_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.contract import Boot, Outcome
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.oldroot import OldRoot
    from ephemeroot.wipers.pruning import Pruning

# On the root: the name of an old-roots that is about to be created.
_CREATES = "ephemeroot:creates"

_ENVIRONMENT = "zfs-env-bootfs.service"


class DatasetRotation(Rotation):
    """One rotation of the root of *history*, with *pruning* at its end.

    Fresh roots are clones of ``history.source``; *base* is the dataset that it is a snapshot of.
    """

    __slots__ = ("base", "bootfs", "new", "root", "source")
    history: DatasetHistory

    def __init__(self, boot: Boot, history: DatasetHistory, pruning: Pruning, *, base: str) -> None:
        super().__init__(boot, history, pruning)
        self.base = base
        self.root = history.root
        self.new = temporary(history.root)
        self.source = history.source
        self.bootfs = ""

    def run(self) -> Outcome:
        """Rotate. See ``Wiper.wipe`` for the errors and the state after them."""
        found = datasets.look(self.root, self.new, self.base, self.source)
        self.bootfs = proofs.pool(datasets.pool(self.root))
        waiting = found.get(self.new)
        if self.root not in found and waiting is not None and OF in waiting.own:
            self._require_retired(waiting)
            if self.boot.dry_run:
                self.boot.log(f"put {self.new} in place, left by an interrupted boot")
                return self.outcome
            self._finish()
            found = datasets.look(self.root, self.new, self.base, self.source)
        previous = require_root(found.get(self.root), self.root)
        self._complete_container(previous)
        proofs.rotation(self.history, self.base, found, previous)
        source = self.source
        if self.boot.request is not None:
            source = proofs.requested(self.history, self.boot.request)
        leftover = found.get(self.new)
        if leftover is not None and not (
            OF in leftover.own or clone.is_unfinished(leftover, previous, self.bootfs)
        ):
            new = shell.quoted(self.new)
            raise Refused(
                f"{self.new} exists and was not made by ephemeroot",
                f"'zfs rename {new} NAME' keeps it, 'zfs destroy {new}' deletes it",
            )
        owner = leftover.own.get(SYSTEM, "") if leftover is not None else ""
        if owner not in ("", self.boot.system):
            new = shell.quoted(self.new)
            raise Refused(
                f"{self.new} is a fresh root of another system ({owner})",
                f"'zfs rename {new} NAME' keeps it, 'zfs destroy {new}' deletes it",
            )
        if self.boot.dry_run:
            self._describe(leftover, previous, source)
            return self.outcome
        self._complete(previous)
        if leftover is not None:
            self._recover(leftover)
        name = self.name(unused=previous.state == NEW)
        first = name.keep
        name, identity = self._place(name, previous, source)
        # The fresh root is in its place: from here on failures are problems, not errors.
        self.outcome.fresh = {"dataset": self.root, "fsid": identity}
        self.outcome.retired = str(name)
        if first:
            self.attempt("record the first old root", lambda: self.history.record_first(str(name)))
        retired = f"{self.history.old_roots}/{name}"
        self.finish(lambda: self._follow(retired, named=self.bootfs == self.root))
        return self.outcome

    def show(self, entry: OldRoot | None, give: Callable[[str], bool]) -> bool:
        dataset = self.root if entry is None else self.history.path(entry)
        with Private(dataset, f"{self.boot.private}/previous") as previous:
            return give(previous.path)

    def is_full(self, error: Exception) -> bool:
        return isinstance(error, EphemerootError) and channel.OUT_OF_SPACE in error.message

    # What an interrupted boot left

    def _require_retired(self, waiting: Dataset) -> None:
        """Raise ``Refused`` unless the root whose place *waiting* takes has been retired."""
        if self._retired_as(waiting.own[OF]):
            return
        name, root = shell.quoted(self.new), shell.quoted(self.root)
        raise Refused(
            f"{self.root} is missing, and the root that {self.new} was made to replace is not in "
            f"{self.history.old_roots}: another program renamed or destroyed it",
            f"'zfs rename NAME {root}' restores its name, if it still exists; 'zfs rename {name} "
            f"{root}' boots a fresh root instead",
        )

    def _retired_as(self, guid: str) -> str:
        """The dataset in old-roots that has that guid; empty if there is none."""
        found = datasets.children(self.history.old_roots)
        names = [child for child, (kind, _) in found.items() if kind == "filesystem"]
        if not names:
            return ""
        return next((n for n, one in datasets.look(*names).items() if one.guid == guid), "")

    def _complete_container(self, root: Dataset) -> None:
        """``zfs create`` commits a dataset before its properties: the power went between them."""
        found = self.history.container()
        if found is None or root.own.get(_CREATES) != found.name or found.canmount == "off":
            return
        self.boot.log(f"complete {found.name}, which an interrupted boot has created")
        if self.boot.dry_run:
            return
        # In this order: everything that can be mounted would be, as soon as it gets a mount point.
        for setting in ("canmount=off", "mountpoint=none"):
            programs.run("zfs", "set", setting, found.name)

    def _finish(self) -> None:
        """The root was renamed away and the fresh one waits: complete that."""
        line = f"put {self.new} in place, left by an interrupted boot"
        self.boot.log(line)
        channel.rename(self.new, self.root)
        self.outcome.recovered.append(line)
        # OpenZFS's dracut module determined the mount options of the root before it existed.
        # Its result would not mount a root with mountpoint=legacy.
        unit = f"/usr/lib/systemd/system/{_ENVIRONMENT}"
        if os.path.exists("/run/systemd/system") and os.path.exists(unit):
            self.attempt(
                f"start {_ENVIRONMENT} again",
                lambda: programs.run("systemctl", "--quiet", "start", _ENVIRONMENT),
            )
        # Nor did it load the key of a root that did not exist.
        dataset_keys.load(self.root)

    def _complete(self, root: Dataset) -> None:
        """Complete the steps after a new root that a power cut has prevented."""
        if OF not in root.own or not (BOOTFS in root.own or RESERVED in root.own):
            return
        retired = self._retired_as(root.own[OF])
        if retired:
            self._follow(retired, named=BOOTFS in root.own and self.bootfs == retired)

    def _recover(self, leftover: Dataset) -> None:
        """Delete a fresh root that never got the root's name, unless it has been used."""
        line = f"delete {self.new}, a fresh root that never became the root"
        if OF not in leftover.own:
            self._retire()
            return
        try:
            history.delete(self.new, leftover.createtxg, act="look")
        except EphemerootError:
            self._retire()
            return
        self.boot.log(line)
        history.delete(self.new, leftover.createtxg)
        self.outcome.recovered.append(line)

    def _retire(self) -> None:
        """It may have something in it that we did not make: it stays a while."""
        name = retire.leftover_name(self.history, self.boot.now)
        line = f"retire {self.new}, a fresh root that never became the root, as {name}"
        self.boot.log(line)
        self._require_container()
        channel.rename(self.new, f"{self.history.old_roots}/{name}")
        self.outcome.recovered.append(line)

    def _require_container(self) -> None:
        if self.history.container() is None:
            self.boot.log(f"create {self.history.old_roots}")
            datasets.mark(self.root, _CREATES, self.history.old_roots)
            self.history.make_container()

    # The steps

    def _place(self, name: Name, previous: Dataset, source: str) -> tuple[Name, str]:
        """Put a fresh root in its place; returns the name under which the previous one was
        retired, and what the fresh one is known by.
        """
        if "@" not in source:
            source = self._snapshot(source, name)
        self.with_room(lambda: self._clone(source, previous))
        made = datasets.look(self.new)[self.new]
        retired = f"{self.history.old_roots}/{name}"
        try:
            with Private(self.new, f"{self.boot.private}/fresh") as fresh:
                self.boot.prove(fresh.path)
                identity = fresh.fsid
            name = self.hand_over(name)
            retired = f"{self.history.old_roots}/{name}"
            self._require_container()
            self.boot.log(self._retirement(name))
            self.with_room(lambda: channel.rename(self.root, retired))
            self.boot.log(self._placement)
            channel.rename(self.new, self.root)
        except BaseException:
            self._take_back(made, previous, retired)
            raise
        return name, identity

    def _take_back(self, made: Dataset, previous: Dataset, retired: str) -> None:
        """Give the previous root its name again and delete the clone, unless the clone has that
        name: an interruption can arrive after a rename that succeeded, so the pool is asked which
        dataset has which name. A failure is left to the next boot, which completes the rotation.
        """
        try:
            found = datasets.look(self.root, retired)
            root, old = found.get(self.root), found.get(retired)
            if root is None and old is not None and old.guid == previous.guid:
                channel.rename(retired, self.root)
            elif root is None or root.guid != previous.guid:
                return
            self._discard(made)
        except (EphemerootError, OSError):
            return

    def _snapshot(self, old_root: str, name: Name) -> str:
        """A snapshot of *old_root*, to boot a copy of it."""
        snapshot = f"{old_root}@{SNAPSHOT}{names.Name(name.time, name.number)}"
        self.boot.log(f"take the snapshot {snapshot}")
        programs.run("zfs", "snapshot", snapshot)
        return snapshot

    def _clone(self, source: str, previous: Dataset) -> None:
        self.boot.log(self._creation(source))
        clone.make(self.new, source, previous, self.bootfs, self.boot.system)

    def _discard(self, made: Dataset) -> None:
        """Delete a clone that never got its place. A failure is left to the next recovery."""
        try:
            history.delete(self.new, made.createtxg)
            clone.forget(self.root)
        except (EphemerootError, OSError):
            return

    def _follow(self, retired: str, *, named: bool) -> bool:
        """What the old root has taken with it under its new name comes back to the root:
        reservations and, if it *named* the root, the pool's bootfs.
        """
        root = datasets.look(self.root)[self.root]
        if named:
            # It is an object number, and went with the old root under its new name.
            self.attempt(f"set bootfs to {self.root}", self._set_bootfs)
        if root.own.get(RESERVED):
            self.attempt(
                f"move the reservations to {self.root}",
                lambda: self._move_reservations(retired, root.own[RESERVED].split()),
            )
        return True

    def _set_bootfs(self) -> None:
        programs.run("zpool", "set", f"bootfs={self.root}", datasets.pool(self.root))
        self.bootfs = self.root

    def _move_reservations(self, retired: str, reserved: list[str]) -> None:
        programs.run("zfs", "set", *(f"{key}=none" for key in MOVED), retired)
        programs.run("zfs", "set", *reserved, self.root)
        programs.run("zfs", "inherit", RESERVED, self.root)

    # In words

    @staticmethod
    def _creation(source: str) -> str:
        return f"create a fresh root as a clone of {source}"

    @staticmethod
    def _retirement(name: Name) -> str:
        return f"retire the previous root as {name}"

    @property
    def _placement(self) -> str:
        return f"rename the fresh root to {self.root}"

    def _describe(self, leftover: Dataset | None, previous: Dataset, source: str) -> None:
        """What ``run`` would do, in the same lines."""
        if leftover is not None:
            self.boot.log(f"recover {self.new}")
        with Private(source, f"{self.boot.private}/fresh") as fresh:
            self.boot.prove(fresh.path)
        self.boot.log(self._creation(source))
        name = self.name(unused=previous.state == NEW)
        self.describe_hand_over(name)
        self.boot.log(self._retirement(name))
        self.boot.log(self._placement)
        self.foresee()


def temporary(root: str) -> str:
    """The name of a fresh root before it gets its place."""
    return f"{root}.ephemeroot-new"
