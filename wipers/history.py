"""The contract of a history: the old roots that a wiper keeps, for ``ephemeroot roots``.

A wiper that keeps old roots returns one from ``Wiper.history``. It implements the backend's
part (listing, mounting, renaming, deleting); finding, keeping, retention and
pruning are the same for all, here and in ``changes`` and ``pruning``.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError, Locked, Misconfigured, Refused
from ephemeroot.wipers import names
from ephemeroot.wipers.oldroot import FOREIGN, RECIPE, RETIRED, Facts, OldRoot
from ephemeroot.wipers.retention import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ephemeroot.wipers.names import Name


class Installed:
    """What the installed system gives a wiper that opens its history.

    ``target`` is the mount point that is wiped (``/``, or a volume's) and ``live`` the path
    where it is mounted now; ``device`` (empty for a wiper that is not ``ON_DEVICE``),
    ``subvolume``, ``root`` and ``root_flags`` are as in ``Boot``. ``volumes`` maps the mount
    points of the volumes needed for boot to where they are mounted now. ``private`` is an
    empty directory in a mount namespace of this run's own, below which it may mount; unless
    ``writable``, every such mount must be read-only (the mount, not its filesystem).
    """

    __slots__ = (
        "device", "live", "private", "root", "root_flags", "subvolume", "system", "target",
        "volumes", "writable",
    )  # fmt: skip

    def __init__(
        self,
        *,
        device: str,
        private: str,
        writable: bool = False,
        subvolume: str | None = None,
        target: str = "/",
        live: str = "/",
        root: str | None = None,
        root_flags: Iterable[str] = (),
        volumes: dict[str, str] | None = None,
        system: str = "",
    ) -> None:
        self.system = system
        self.device = device
        self.private = private
        self.writable = writable
        self.subvolume = subvolume
        self.target = target
        self.live = live
        self.root = root
        self.root_flags = tuple(root_flags)
        self.volumes = volumes or {}


class History:
    """The old roots of one wiper's target, locked until ``close``.

    A history belongs to one system, whose id ``apply`` has made: ``system`` is the id of this one.
    Another's is neither added to nor pruned, and all of its entries are foreign.

    ``where`` is what messages call the place they are in. ``policy`` and ``min_free`` (bytes,
    0 for none) are what the settings say of keeping them. ``NOUN`` is what messages call one,
    ``LISTED_BY`` the verb that lists them.
    ``deadline`` (``time.monotonic()``, ``None`` for none) is set by pruning: a history that can
    continue a deletion in its next run may leave the rest then.
    ``SNAPSHOTS``: an unchanged file has the same inode number and ctime in all of them.
    Every method may raise ``EphemerootError`` or ``OSError``; methods to be implemented say so.
    """

    NOUN = "root"
    LISTED_BY = "roots list"
    SNAPSHOTS = False

    __slots__ = ("deadline", "min_free", "policy", "system", "where")

    def __init__(
        self, where: str, policy: Policy | None = None, min_free: int = 0, system: str = ""
    ) -> None:
        self.system = system
        self.where = where
        self.deadline: float | None = None
        self.policy = policy or Policy(0, 0)
        self.min_free = min_free

    def close(self) -> None:
        """Unlock, and unmount its mounts. To be implemented; safe to call twice."""

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Whose it is

    def owner(self) -> str:
        """The id of the system that it belongs to; empty if it has no owner yet, or does not
        exist. To be implemented by a history that can be in reach of several systems.
        """
        return ""

    def set_owner(self, system: str) -> None:
        """Record that it belongs to *system*. To be implemented with ``owner``."""

    @property
    def is_anothers(self) -> bool:
        """Whether it belongs to another system than this one."""
        owner = self.owner()
        return owner not in ("", self.system)

    def require_own(self) -> None:
        """Take a history without an owner. Raises ``Refused`` for another system's."""
        owner = self.owner()
        require_owner(self.where, owner, self.system)
        if self.system and not owner:
            self.set_owner(self.system)

    def owned(self, found: list[OldRoot]) -> list[OldRoot]:
        """*found*, or all of it as foreign if the history is another system's."""
        if not self.is_anothers:
            return found
        return [OldRoot(entry.text, FOREIGN, entry.serial) for entry in found]

    def entries(self) -> list[OldRoot]:
        """Everything in the history, foreign entries included, ordered by kind and label.

        To be implemented.
        """
        raise NotImplementedError

    def retired(self) -> list[OldRoot]:
        """Only old roots with a name of Ephemeroot's."""
        return [entry for entry in self.entries() if entry.kind == RETIRED]

    def newest_complete(self) -> OldRoot | None:
        """The newest old root that is boot-complete."""
        complete = [e for e in self.retired() if e.name is not None and not e.name.unused]
        return max(complete, key=_age, default=None)

    def first(self) -> str:
        """The name under which the first boot-complete root was retired here, if it is recorded."""
        return ""

    def record_first(self, label: str) -> None:
        """Record that *label* is the name of the first boot-complete root, for ``first``."""

    def has_first(self) -> bool:
        """Whether a boot-complete root was ever retired here. The first one is marked ``.keep``: it
        is the only copy of all that was forgotten.
        """
        return bool(self.first()) or self.newest_complete() is not None

    def find(self, text: str) -> OldRoot:
        """The entry called *text*; flags such as ``.keep`` may be left out of a name.

        Raises ``Misconfigured`` if there is none.
        """
        entries = self.entries()
        for entry in entries:
            if entry.text == text or entry.label == text:
                return entry
        wanted = names.parse(text)
        for entry in entries:
            if wanted and entry.name and entry.name.identity == wanted.identity:
                return entry
        raise Misconfigured(
            f"there is no old {self.NOUN} {text!r} in {self.where}",
            f"run 'ephemeroot {self.LISTED_BY}' to list them",
        )

    def path(self, entry: OldRoot) -> str:
        """Where *entry* lies, for people. To be implemented."""
        raise NotImplementedError

    def facts(self, entry: OldRoot) -> Facts:
        """The facts about *entry* that are cheap to find out. To be implemented.

        Raises ``EphemerootError`` if it is another one by now.
        """
        raise NotImplementedError

    def measure(self, entry: OldRoot, deadline: float) -> int | None:
        """Bytes that only *entry* holds; ``None`` if that is not known by *deadline*
        (``time.monotonic()``). Without a way to find out it is what ``facts`` knows.

        Raises as ``facts`` does.
        """
        return self.facts(entry).exclusive

    # Looking into it: each returns a detached mount (open_tree(2), fsmount(2)), read-only
    # for the caller, that outlives this history. The caller attaches it and closes it.

    def mount(self, entry: OldRoot) -> int:
        """A mount of *entry* as it was when it was the root. To be implemented.

        While it is mounted anywhere ``prove`` must refuse to let the entry be deleted.
        """
        raise NotImplementedError

    def mount_base(self) -> int | None:
        """A mount of the source of fresh roots; ``None`` if they begin empty."""
        return None

    def open_layer(self, entry: OldRoot | None) -> int:
        """The open directory with what *entry* (``None``: the present root) itself has, if the rest
        of it is what ``mount_base`` gives; -1 if it has everything.
        """
        return -1

    def missing_base(self) -> str:
        """Why no new root can be made of the base, which does not exist or is not one; empty if it
        can, or if new roots begin empty.
        """
        return ""

    def mount_fresh(self) -> int | None:
        """A mount of the source of the present root, as at that time; ``None`` for nothing.

        Unless a history knows better, that is the base. Raises ``EphemerootError`` if it
        is gone, or was changed.
        """
        return self.mount_base()

    def changed_since(self) -> Callable[[str, int], bool] | None:
        """A quick way to compare the present root with ``mount_fresh``: whether the file with that
        path (from the root, ``/`` for itself) and inode number, or a file in it, may
        differ. A comparison passes over the rest. ``None``: there is none.
        """
        return None

    # What retention asks

    def seen(self) -> int:
        """The latest time that a synchronised clock showed here, in seconds since 1970; 0 if
        none ever did.
        """
        return 0

    def record_seen(self, now: int) -> None:
        """Record what a synchronised clock shows, for ``seen``."""

    def space(self) -> tuple[int, int]:
        """Bytes available and bytes in all, where the old roots are. To be implemented."""
        raise NotImplementedError

    def retained(self) -> str:
        """Why no deletion would free space at present; empty if it would."""
        return ""

    def settle(self, deadline: float) -> None:
        """Wait until the space of deleted old roots is free, or ``time.monotonic()`` is
        *deadline*. Nothing to do where it is free at once.
        """

    # Changes: used through ``changes`` and ``pruning``, which describe what they do

    def free(self, wanted: Name) -> Name:
        """*wanted*, or with a number, so that no entry has its identity."""
        return names.free(wanted, {e.name.identity for e in self.retired() if e.name is not None})

    def rename(self, entry: OldRoot, name: Name) -> str:
        """Give *entry* another *name* of Ephemeroot's, in one step; return the name it got.

        To be implemented. *entry* must still be the listed one; nothing is overwritten.
        """
        raise NotImplementedError

    def prove(self, entry: OldRoot) -> None:
        """Raise ``EphemerootError`` if *entry* must not be deleted: it is not the listed
        one, or is in use (mounted anywhere). To be implemented.
        """
        raise NotImplementedError

    def delete(self, entry: OldRoot) -> None:
        """Delete *entry* and its parts, proven again. To be implemented."""
        raise NotImplementedError

    def commit(self) -> None:
        """Make everything done so far survive a power cut."""


def lock(fd: int, what: str) -> None:
    """Lock the open file or directory *fd* until it is closed. Raises ``Locked`` if another run
    works on it; *what* is its name in the message.
    """
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(
            f"another run of ephemeroot is working on {what}", "wait until it is done"
        ) from None


def require_owner(where: str, owner: str, system: str) -> None:
    """Raise ``Refused`` if the history *where* belongs to another system than *system*."""
    if owner not in ("", system):
        raise Refused(
            f"{where} is the history of another system ({owner})",
            "name another place; if this system was reinstalled, run 'ephemeroot roots claim'",
        )


def _age(entry: OldRoot) -> tuple[int, tuple[int, int]]:
    return entry.serial, entry.name.identity if entry.name is not None else (0, 0)


def require_mountable(entry: OldRoot) -> None:
    """Raise ``EphemerootError`` if *entry* is foreign: this system did not make it."""
    if entry.kind not in (RETIRED, RECIPE):
        raise EphemerootError(f"{entry.label!r} was not retired by ephemeroot: not touched")
