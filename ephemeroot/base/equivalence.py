"""Equivalences of the stores and the root in each copy of the SELinux policy that a boot uses:
``apply`` adds them, and ``leave`` removes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ephemeroot.backends.contract import Bases
from ephemeroot.base import boot_filesystems, change, opening
from ephemeroot.base.work import CommandFailed, Order
from ephemeroot.config import Configuration, Examination, Machine, volumes
from ephemeroot.config.syntax import clean
from ephemeroot.errors import Refused
from ephemeroot.hooks import records
from ephemeroot.hooks.records import STATE
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine import equivalences, files, labels
from ephemeroot.old_roots import persisted
from ephemeroot.step import Step

RECORD = f"{STATE}/equivalence"
"""The record in a store that ``apply`` has added its equivalence."""

FORGOTTEN = (
    "the root is an overlay: SELinux's policy has the equivalence of the store {} until the next "
    "boot only"
)
FORGOTTEN_HINT = "run 'ephemeroot next-boot keep', reboot, and run 'ephemeroot apply' there"


class Equivalence(Step):
    """The equivalence of ``store`` in the policy of the tree at ``place``. A failure does not stop
    the run: labels are right until the administrator relabels the store.
    """

    __slots__ = ("add", "place", "root", "store", "where")

    GOES_ON = True

    def __init__(self, root: Path, store: str, place: str, where: str, *, add: bool) -> None:
        self.root = root
        self.store = store
        self.place = place
        self.where = where
        self.add = add

    def describe(self) -> str:
        if self.add:
            return f"have SELinux's policy in {self.where} label {self.store} like /"
        return f"remove the equivalence of {self.store} from SELinux's policy in {self.where}"

    def execute(self) -> str:
        done = equivalences.change(self.place, self.store, add=self.add)
        return self.note(done)

    def note(self, done: str) -> str:
        """Record an added equivalence in the store: ``leave`` keeps those of the administrator."""
        if self.add and not done.startswith("already"):
            remember(self.root, self.store)
        return done


class InBase(Equivalence):
    """The same in the base, like ``base run``."""

    __slots__ = ("configuration", "machine")

    def __init__(
        self, machine: Machine, configuration: Configuration, store: str, *, add: bool
    ) -> None:
        super().__init__(Path(machine.root), store, "", "the base", add=add)
        self.machine = machine
        self.configuration = configuration

    def execute(self) -> str:
        boot_filesystems.trigger()
        with (
            Namespace() as private,
            opening.opened(self.machine, self.configuration, private, writable=True) as bases,
        ):
            change.recover(bases, _unheard)
            base = bases.present()
            if base < 0:
                return "there is no base yet"
            try:
                present = f"/proc/self/fd/{base}"
                if not equivalences.is_possible(present):
                    return "the base has no policy"
                if self.add is equivalences.is_made(present, self.store):
                    return "already present" if self.add else "already removed"
                managed = files.exists_in_root(base, "/usr/sbin/semanage")
            finally:
                os.close(base)
            if not (managed and self._run_semanage(bases)):
                change.run(bases, self._order(act=self._write), _unheard)
        return self.note("in a new base")

    def _run_semanage(self, bases: Bases) -> bool:
        """Whether it did it: it refuses a policy that it does not manage."""
        output = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            words = equivalences.words(self.store, add=self.add)
            change.run(bases, self._order(words=words, output=output), _unheard)
        except CommandFailed:
            return False
        finally:
            os.close(output)
        return True

    def _order(
        self,
        words: list[str] | None = None,
        output: int | None = None,
        act: Callable[[int], None] | None = None,
    ) -> Order:
        def refuse(message: str, hint: str) -> None:
            raise Refused(message, hint)

        return Order(
            words,
            confirm=lambda: None,  # apply and leave have asked
            ask=refuse,
            output=output,
            kept=opening.kept(self.machine, self.configuration),
            act=act,
        )

    def _write(self, copy: int) -> None:
        equivalences.write(f"/proc/self/fd/{copy}", self.store, add=self.add)


def steps(examination: Examination, *, add: bool = True) -> list[Step]:
    """The steps for the stores of *examination*; none without a policy."""
    machine, config = examination.machine, examination.config
    root = machine.root
    if not machine.labels.are_known or machine.another:
        return []
    stores = [store.path for store in config.stores]
    if not add:
        stores = [store for store in stores if is_remembered(Path(root), store)]
    places, has_base = _places(examination), _has_base(examination)
    found: list[Step] = []
    for store in stores:
        found += [Equivalence(Path(root), store, place, where, add=add) for place, where in places]
        if has_base:
            found.append(InBase(machine, config, store, add=add))
    return found


def is_forgotten(examination: Examination) -> bool:
    """Whether the next boot discards a change of the running root's policy, and no base has it."""
    wiping, mount = examination.config.wiping, examination.machine.root_mount
    return (
        examination.machine.labels.are_known
        and wiping is not None
        and mount is not None
        and mount.fstype == "overlay"
        and not _persists(examination, _folder(examination.machine.root))
    )


def remember(root: Path, store: str) -> None:
    """Note in the *store* that its equivalence is Ephemeroot's."""
    fd = os.open(files.show(str(root), store), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        records.write(fd, RECORD, b"")
    finally:
        os.close(fd)


def is_remembered(root: Path, store: str) -> bool:
    """Whether the *store* has that note."""
    return os.path.exists(f"{files.show(str(root), store)}/{RECORD}")


def _places(examination: Examination) -> list[tuple[str, str]]:
    """The trees with a policy, each with its name in messages: the root, and a store whose policy
    is not yet bound over the root's.
    """
    root = examination.machine.root
    found = [(root, "this root")]
    for store in examination.config.stores:
        place = files.show(root, store.path)
        if equivalences.is_possible(place) and not _same_policy(root, place):
            found.append((place, store.path))
    return found


def _same_policy(root: str, place: str) -> bool:
    """Whether the store's policy is bound over the root's."""
    one, other = (files.open_directory(tree, labels.folder(tree) or "/") for tree in (root, place))
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    finally:
        os.close(one)
        os.close(other)


def _has_base(examination: Examination) -> bool:
    """Whether the next root's policy is that of a base."""
    wiping = examination.config.wiping
    root = examination.machine.root
    if wiping is None or wiping.plugin is None or not files.is_this_machine(root):
        return False
    wiper = wiping.plugin.wiper(dict(wiping.settings))
    return wiper.has_base and not _persists(examination, _folder(root))


def _persists(examination: Examination, path: str) -> bool:
    volume = volumes.covering(path, examination.volumes)
    if volume is not None and volume.persists:
        return True
    return any(clean.is_below(path, entry.path) for entry in examination.declared)


def _folder(root: str) -> str:
    """The real path of the machine's policy, relative to its root."""
    top = os.path.realpath(root)
    where = labels.folder(root) or ""
    return persisted.below(os.path.realpath(files.show(top, where)), top) or where


def _unheard(line: str) -> None:
    """Print nothing: the line of the step is enough."""
