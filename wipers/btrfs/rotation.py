"""The rotation of a btrfs root: prove, recover, make fresh, exchange, retire, prune.

The order makes power cuts safe. At any instant, the root's name has the
previous root or a complete fresh one, and the temporary name (``leftovers``) has all
that the next run needs. Nothing is deleted before the exchange is on the disk.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import immutable, paths
from ephemeroot.wipers import marks
from ephemeroot.wipers.btrfs import retirement, subvolumes
from ephemeroot.wipers.btrfs.fresh import FreshRoot
from ephemeroot.wipers.btrfs.leftovers import Leftover
from ephemeroot.wipers.btrfs.recovery import Recovery
from ephemeroot.wipers.rotation import Rotation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.btrfs.history import SubvolumeHistory
    from ephemeroot.wipers.contract import Boot, Outcome
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.oldroot import OldRoot
    from ephemeroot.wipers.pruning import Pruning

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_MAKE_BASE = (
    "create a base: mount the top level (-o subvolid=5) and run 'btrfs subvolume snapshot ROOT "
    "BASE' there"
)


class SubvolumeRotation(Rotation):
    """One rotation of the root of *history*, with *pruning* at its end.

    *base* is a path from the top level, or ``None`` for an empty root. *set_default*
    moves the default subvolume along.
    """

    __slots__ = ("base", "previous", "set_default", "source", "source_path")
    history: SubvolumeHistory

    def __init__(
        self,
        boot: Boot,
        history: SubvolumeHistory,
        pruning: Pruning,
        *,
        base: str | None,
        set_default: bool,
    ) -> None:
        super().__init__(boot, history, pruning)
        self.base = base
        self.set_default = set_default
        self.previous = -1
        self.source = -1
        self.source_path = ""

    def run(self) -> Outcome:
        """Rotate. See ``Wiper.wipe`` for the errors and the state after them."""
        try:
            self._prove_previous()
            self._open_source()
            if self.boot.dry_run:
                self._describe()
                return self.outcome
            self._recover()
            leftover, fresh = self._place(self._leftover())
        finally:
            for fd in (self.source, self.previous):
                if fd >= 0:
                    os.close(fd)
        # The fresh root is in its place: from here on failures are problems, not errors.
        self.outcome.fresh = {
            "uuid": self.history.top.uuid,
            "subvolume": self.history.root,
            "subvolume-uuid": fresh.uuid,
        }
        self._retire(leftover, fresh)
        self.finish(lambda: self.attempt("write the changes to the disk", self.history.top.commit))
        return self.outcome

    def show(self, entry: OldRoot | None, give: Callable[[str], bool]) -> bool:
        path = self.history.root if entry is None else self.history.path(entry)
        return give(f"{self.history.top.path}/{path}")

    def is_full(self, error: Exception) -> bool:
        return isinstance(error, OSError) and error.errno in _NO_SPACE

    # Proofs: nothing is changed here

    def _prove_previous(self) -> None:
        root = self.history.root
        self.previous = self._open_previous()
        if self.history.is_mounted(root):
            raise Refused(
                f"the subvolume {root!r}, or something in it, is mounted",
                "it can only be made fresh before it is mounted, in the initramfs",
            )
        if self.previous < 0 or self.set_default:
            return
        if subvolumes.default(self.history.top.fd) == subvolumes.identify(self.previous).id:
            raise Refused(
                f"the root {root!r} is the default subvolume of the filesystem",
                "set set-default = true to move the default to each new root, or choose another "
                "default with 'btrfs subvolume set-default'",
            )

    def _open_previous(self) -> int:
        """Open the present root; -1 if there is none yet."""
        root = self.history.root
        try:
            fd = subvolumes.open_directory(self.history.parent, self.history.root_name)
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise Refused(
                f"the root {root!r} is not a subvolume: {error.strerror}",
                "only a subvolume can be rotated",
            ) from error
        if not subvolumes.is_subvolume(fd):
            os.close(fd)
            raise Refused(
                f"the root {root!r} is a plain directory, not a subvolume",
                "create a subvolume and move the system into it: 'btrfs subvolume create'",
            )
        return fd

    def _open_source(self) -> None:
        """Open what the fresh root will be a snapshot of; none for an empty root."""
        if self.boot.request is not None:
            self._open_request(self.boot.request)
            return
        if self.base is None:
            return
        self.source_path = self.base
        try:
            self.source = subvolumes.open_directory(self.history.top.fd, self.base)
        except FileNotFoundError:
            raise Refused(f"the base {self.base!r} does not exist", _MAKE_BASE) from None
        except OSError as error:
            raise Refused(
                f"the base {self.base!r} is not a subvolume: {error.strerror}", _MAKE_BASE
            ) from error
        if not subvolumes.is_subvolume(self.source):
            raise Refused(f"the base {self.base!r} is not a subvolume", _MAKE_BASE)

    def _open_request(self, request: str) -> None:
        try:
            entry = self.history.find(request)
            self.source_path = self.history.path(entry)
            self.source = self.history.open(entry)
        except EphemerootError as error:
            raise Refused(
                f"cannot boot the old root {request!r}: {error.message}",
                "run 'ephemeroot roots list' to list the old roots",
            ) from error

    # The steps

    def _recoveries(self) -> list[Recovery]:
        default_to = 0
        if self.set_default and self.previous >= 0:
            default_to = subvolumes.identify(self.previous).id
        return [
            Recovery(self.history, directory, leftover, default_to)
            for directory, leftover in self.history.leftovers()
        ]

    def _recover(self) -> None:
        """Recover all leftovers. One that cannot be is a problem, and tried again next time."""
        for recovery in self._recoveries():
            try:
                line = recovery.execute()
            except (EphemerootError, OSError) as error:
                self.outcome.problems.append(f"{recovery.describe()}: {error}")
                continue
            if line:
                self.boot.log(line)
                self.outcome.recovered.append(line)

    def _leftover(self) -> Leftover:
        """The temporary name, which decides under which name the previous root retires."""
        root, system = self.history.root_name, self.history.system
        if self.previous < 0:
            name = self.name(unused=False).changed(keep=False)
            return Leftover(root, name, None, read_only=False, system=system)
        uuid = subvolumes.identify(self.previous).uuid
        name = self.name(unused=marks.state(self.previous, uuid) == marks.NEW)
        read_only = subvolumes.is_read_only(self.previous)
        return Leftover(root, name, uuid, read_only=read_only, system=system)

    def _place(self, leftover: Leftover) -> tuple[Leftover, FreshRoot]:
        """Put a fresh root in place; without space for it, prune due old roots once and retry.

        Returns the temporary name that the previous root has then, too.
        """
        try:
            return self.with_room(lambda: self._place_once(leftover))
        except OSError as error:
            self._explain(error)
            if not self.is_full(error):
                raise
            raise EphemerootError(
                f"no space for a fresh root on {self.history.top.device}: the root is kept",
                "delete files, or old roots with 'ephemeroot roots delete'",
            ) from error

    def _explain(self, error: OSError) -> None:
        """Raise ``EphemerootError`` for what the system's own words do not explain."""
        if error.errno == errno.ETXTBSY:
            raise EphemerootError(
                f"cannot make a snapshot of {self.source_path}: a swap file in it is in use",
                "find it with 'swapon --show', run 'swapoff' for it, and keep it outside of the "
                "base",
            ) from error
        if error.errno == errno.EPERM:  # btrfsutil does not raise PermissionError
            raise immutable.explained(error, self.history.parent) from error

    def _place_once(self, leftover: Leftover) -> tuple[Leftover, FreshRoot]:
        fresh = FreshRoot(
            self.history,
            leftover.text,
            source=self.source,
            previous=self.previous,
            is_root=self.boot.target == "/",
        )
        self.boot.log(self._creation)
        fresh.make(self.boot.prove)
        try:
            if self.previous >= 0:
                leftover = self._renamed(leftover, self.hand_over(leftover.name), fresh)
            self._exchange(leftover)
        except BaseException:
            fresh.discard()
            raise
        return leftover, fresh

    @property
    def _creation(self) -> str:
        if self.source < 0:
            return f"create a fresh {self.history.NOUN}, empty"
        return f"create a fresh {self.history.NOUN} as a snapshot of {self.source_path}"

    @property
    def _placement(self) -> str:
        return f"exchange it with {self.history.root}"

    def _retirement(self, leftover: Leftover) -> str:
        return f"retire the previous {self.history.NOUN} as {leftover.name}"

    def _renamed(self, leftover: Leftover, name: Name, fresh: FreshRoot) -> Leftover:
        """Have the previous root retired as *name*, with ``.keep``: it is in the name of the fresh
        root until both are exchanged, so a power cut cannot separate the root from its mark.
        """
        renamed = leftover.renamed(name)
        if renamed.text != leftover.text:
            parent = self.history.parent
            flags = paths.RENAME_NOREPLACE
            immutable.rename(parent, leftover.text, parent, renamed.text, how=flags)
            fresh.text = renamed.text
        return renamed

    def _exchange(self, leftover: Leftover) -> None:
        parent, name = self.history.parent, self.history.root_name
        flags = paths.RENAME_EXCHANGE if self.previous >= 0 else paths.RENAME_NOREPLACE
        self.boot.log(self._placement)
        immutable.rename(parent, leftover.text, parent, name, how=flags)

    def _retire(self, leftover: Leftover, fresh: FreshRoot) -> None:
        if leftover.uuid is None:
            return
        if self.set_default:
            self.attempt("keep the default subvolume", lambda: self._move_default(leftover, fresh))
        self.attempt(self._retirement(leftover), lambda: self._retire_previous(leftover))

    def _move_default(self, leftover: Leftover, fresh: FreshRoot) -> None:
        top = self.history.top.fd
        fd = subvolumes.open_directory(self.history.parent, leftover.text)
        try:
            if subvolumes.default(top) == subvolumes.identify(fd).id:
                subvolumes.set_default(top, fresh.id)
        finally:
            os.close(fd)

    def _retire_previous(self, leftover: Leftover) -> None:
        first = not leftover.name.unused and not self.history.has_first()
        self.outcome.retired = retirement.retire(self.history, self.history.parent, leftover)
        if first:
            self.history.record_first(self.outcome.retired)

    def _describe(self) -> None:
        """What ``run`` would do, in the same lines."""
        for recovery in self._recoveries():
            self.boot.log(recovery.describe())
        if self.source >= 0:
            self.boot.prove(f"{self.history.top.path}/{self.source_path}")
        leftover = self._leftover()
        self.boot.log(self._creation)
        if self.previous >= 0:
            self.describe_hand_over(leftover.name)
        self.boot.log(self._placement)
        if leftover.uuid is not None:
            self.boot.log(self._retirement(leftover))
        self.foresee()
