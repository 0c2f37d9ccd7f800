"""The part of a backend that only the installed system needs: the other half of
``wipers.contract``.

A wiper names its half by ``INSTALLED``. It may use the whole standard library and everything below
this package; it is imported when a verb asks for it, never at boot. A backend without one has no
proposal, no base and cannot be rehearsed: the defaults here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import backends
from ephemeroot.backends.survey import Survey
from ephemeroot.errors import EphemerootError, Misconfigured, Refused
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.linux.mountinfo import Mount
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.fstab import FstabLine
from ephemeroot.machine.root import Root
from ephemeroot.wipers.contract import Outcome, Wiper
from ephemeroot.wipers.history import History
from ephemeroot.wipers.oldroot import OldRoot


@dataclass(frozen=True, slots=True)
class Step:
    """``commands`` are for a root shell, one a line; a few only say what to edit (``#``)."""

    title: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What ``init`` proposes for one machine.

    ``root`` says in words what the root is now, ``explanation`` what becomes of it, in a paragraph.
    ``tables`` is the text of ``[root]`` and the wiper's table, ``store`` the store's path.
    ``prepare`` are the steps before the configuration is written, ``finish`` those after it.
    """

    wiper: str
    root: str
    store: str
    explanation: str
    tables: str
    prepare: tuple[Step, ...] = ()
    finish: tuple[Step, ...] = ()


class Rehearsal:
    """The throw-away of one rehearsal: what the wipe stage may make fresh, and its end.

    ``wipe`` is the root's of the plan, ``place`` says where the root is, ``root`` is the machine's
    root directory, and ``notes`` gets a line for each difference from a real boot. As it is
    here it suits a wiper that changes nothing on a disk and mounts the fresh root: the very
    operation of the plan is carried out.

    The object is made before there are two processes: one calls ``prepare``, simulates the boot,
    and calls ``tidy``; the other calls ``tidy`` if that one could not.
    """

    def __init__(self, wipe: Wipe, place: Root, root: Path, notes: list[str]) -> None:
        self.wipe = wipe
        self.place = place
        self.root = root
        self.notes = notes

    def prepare(self, private: str) -> Wipe:
        """Make what the wipe is carried out on; return the operation that does it.

        *private* is an empty directory in a mount namespace of this process's own.
        """
        return self.wipe

    def changed(self, settings: dict[str, object], **values: object) -> Wipe:
        """The plan's operation with other *settings*, and *values* for other fields. It is for
        whatever root it finds: the throw-away is not the one that the plan was applied for.
        """
        return self.wipe.changed(**{"identity": {}, **values, "settings": settings})

    def words(self, wipe: Wipe) -> list[str]:
        """What the kernel command line says of the root to wipe."""
        flags = [f"rootflags=subvol={wipe.subvolume}"] if wipe.subvolume else []
        return [f"root={self.place.device}", *flags]

    def mount(self, wipe: Wipe) -> int:
        """A detached, writable mount of the fresh root; asked if the wiper has not mounted it."""
        raise Refused(f"the wiper {wipe.wiper} has not mounted the fresh root")

    def tidy(self, private: str) -> list[str]:
        """Remove what ``prepare`` has made, as far as it came; a line for each thing that stays."""
        return []


class Bases:
    """The base that fresh roots are copies of, and those that it replaced; open, and locked.

    ``name`` is the base's, ``root`` the root's as in a boot loader's configuration. ``private`` is
    an empty directory in a mount namespace of this process's own. ``path`` is where the base is in
    it, or will be, and ``parent`` the open directory that it is in: on the same filesystem, root's,
    and never made fresh. ``here`` is the real path of the machine's root directory.
    """

    name: str
    root: str
    private: str
    path: Path
    parent: int
    here: str = "/"

    def present(self) -> int:
        """The base, open; -1 if there is none. Raises ``Refused`` if it is something else."""
        raise NotImplementedError

    def identity(self) -> str | None:
        """An identity that only this base has, of all that have had its name; ``None`` if there is
        none.
        """
        raise NotImplementedError

    def identify(self, fd: int) -> str:
        """The same of the open base or old base *fd*."""
        raise NotImplementedError

    def is_writable(self, fd: int) -> bool:
        """Whether the open base *fd* can be written to."""
        raise NotImplementedError

    def made(self, fd: int) -> int:
        """When the open base *fd* was made, in seconds since 1970."""
        raise NotImplementedError

    def old(self) -> list[OldRoot]:
        """The bases that were replaced, in the order of their retirement."""
        raise NotImplementedError

    def find(self, name: str) -> OldRoot:
        """The old base called *name*. Raises ``EphemerootError`` if there is none."""
        raise NotImplementedError

    def measure(self, entry: OldRoot, deadline: float) -> int | None:
        """See ``History.measure``."""
        return None

    def open(self, entry: OldRoot) -> int:
        """The old base *entry*, open."""
        raise NotImplementedError

    def replaced(self) -> Iterator[tuple[str, int]]:
        """Label and descriptor of each old base, including one that was
        interrupted before it was moved to the others. The caller closes the descriptor.
        """
        raise NotImplementedError

    def running(self) -> int:
        """The machine's root, open. Raises ``Refused`` if it is not the one that is made fresh."""
        raise NotImplementedError

    def origin(self) -> int:
        """What the running root was made of, open, and as it was then; -1 if the root was not made
        of a base. Raises ``EphemerootError`` if it is gone, or was changed since.
        """
        raise NotImplementedError

    def changed_since_origin(self) -> Callable[[str, int], bool] | None:
        """See ``History.changed_since``: possible differences of the running root from ``origin``.
        ``None``: anything may.
        """
        return None

    def omitted(self, fd: int) -> list[str]:
        """See ``Backend.omitted``."""
        return []

    def replace(
        self,
        prove: Callable[[str], None],
        log: Callable[[str], None],
        *,
        of_root: bool = False,
        old: str | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Make a copy of the base, of the running root or of the *old* base of that name, and put
        it instead of the base, in one step.

        *prove* gets the path of the copy, mounted, before it takes that place, and may work in it.
        """
        raise NotImplementedError

    def changed_since(self, copy: int, base: int) -> Callable[[str, int], bool] | None:
        """See ``History.changed_since``: possible differences between the open *base* and the open
        *copy* that was made of it. ``None``: anything may.
        """
        return None

    def temporary(self, path: str) -> str:
        """What the copy at *path* is called on its filesystem for now, as ``root`` is."""
        raise NotImplementedError

    def keep(self, copy: int) -> None:
        """Mark the open *copy*: it is complete, and no leftover that may be thrown away."""
        raise NotImplementedError

    def empty(self, copy: int) -> None:
        """Delete what a command has made in the open *copy* that keeps it from being deleted."""

    def recover(self, log: Callable[[str], None]) -> None:
        """Complete or take back a replacement that was interrupted."""
        raise NotImplementedError

    def commit(self) -> None:
        """Make everything on the filesystem survive a power cut."""
        raise NotImplementedError


class Backend:
    """What a backend answers for on the installed system; ``wiper`` has the settings."""

    GENERAL = False
    """Whether its proposal is for any machine that no other backend has one for."""

    WITHOUT_BASE = ""
    """What to run in place of ``base`` and ``upgrade``, where this backend has no bases."""

    def __init__(self, wiper: Wiper) -> None:
        self.wiper = wiper

    @classmethod
    def proposal(cls, survey: Survey, line: FstabLine | None) -> Layout | None:
        """What ``init`` proposes for that machine; ``None`` if this backend is not for it.

        *line* is the store's in fstab, if there is one already. Raises ``Refused`` if the machine
        would be this backend's, and cannot be as it is.
        """
        return None

    def omitted(self, fd: int) -> list[str]:
        """Paths in the open root or base *fd* that a fresh root has as empty directories although
        they have something in them, relative to it.
        """
        return []

    def forgets(self, mount: Mount | None) -> bool:
        """Whether the next boot forgets changes of the running root. *mount* is the mount of the
        root, or ``None`` if it is not known.
        """
        return True

    def obstacles(self, history: History) -> list[EphemerootError]:
        """The refusals that the next boot would end with, as far as this backend can know them now;
        *history* is the wiper's, open. Changes nothing.
        """
        return []

    def rehearsal(self, wipe: Wipe, place: Root, root: Path, notes: list[str]) -> Rehearsal:
        """See ``Rehearsal``. Raises ``Refused`` if this backend has no throw-away."""
        names = _joined(backends.answering("rehearsal"), "and")
        raise Refused(
            f"the wiper {wipe.wiper} cannot be rehearsed: its changes cannot be undone",
            f"see its steps with 'ephemeroot plan'; {names} can be rehearsed",
        )

    def bases(
        self, place: Root, private: Namespace, *, writable: bool
    ) -> AbstractContextManager[Bases]:
        """The bases, mounted in the namespace *private*, locked until the end. Unless *writable*
        they are mounted read-only; else a missing directory for old ones is made.

        Raises ``Misconfigured``, ``Refused`` or ``Locked``.
        """
        raise no_base(self.WITHOUT_BASE)


def no_base(hint: str = "") -> Misconfigured:
    """The error for a root that is not made from a base that ``ephemeroot base`` changes."""
    names = backends.answering("bases")
    settings = _joined([f'wiper = "{name}"' for name in names], "or")
    return Misconfigured(
        f"only a root on {_joined(names, 'or')} is made from a base",
        hint or f"it has {settings} in [root]",
    )


def _joined(words: list[str], conjunction: str) -> str:
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
