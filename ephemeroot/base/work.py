"""What happens in the copy of a base before it takes the base's place: the command, and the proofs
of what it did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.backends.contract import Bases
from ephemeroot.base import (
    assembly,
    boot_filesystems,
    command,
    covered,
    inspection,
    kernels,
    mentions,
    mounting,
    owners,
    relabelling,
    unchanged,
)  # fmt: skip
from ephemeroot.base.boot_filesystems import BootFilesystem
from ephemeroot.base.boot_kernels import Area, Check
from ephemeroot.base.mounting import Assembly
from ephemeroot.base.record import Record
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks.guards import proofs
from ephemeroot.hooks.store.accounts import GROUP, PASSWD
from ephemeroot.plan import applied

Log = Callable[[str], None]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BOOT = "/boot"


class CommandFailed(EphemerootError):
    """The command that was to change the base did not succeed; the base is unchanged."""


@dataclass(frozen=True)
class Order:
    """The command and the questions: ``words`` (``None``: a shell, and then ``confirm``), printing
    to the descriptor ``output`` if there is one. ``ask`` gets message and hint of a question
    to the administrator, and raises ``EphemerootError`` for a no. ``kept`` are paths that a
    new root does not take from the base. ``act`` works in the open copy instead of a command.
    """

    words: Sequence[str] | None
    confirm: Callable[[], None]
    ask: Callable[[str, str], None]
    output: int | None = None
    kept: Collection[str] = ()
    name: str = ""
    scratch: Collection[str] = ()
    act: Callable[[int], None] | None = None


class Work:
    """Called with the path of the copy of the open *base*. The filesystems *boot* are saved in
    *record* already. Raises ``Unchanged`` if the copy is not needed.
    """

    def __init__(
        self,
        opened: Bases,
        record: Record,
        base: int,
        boot: Sequence[BootFilesystem],
        order: Order,
        log: Log,
    ) -> None:
        self.opened = opened
        self.record = record
        self.base = base
        self.boot = boot
        self.order = order
        self.log = log

    def __call__(self, path: str) -> None:
        fd = os.open(path, DIRECTORY)
        try:
            with boot_filesystems.held(self.boot) as sync:
                changed = self._work(fd, path)
                # Before the base is exchanged and the record is removed: a kernel that is only
                # half on the disk could not be put back any more.
                sync()
            if not changed:
                raise unchanged.Unchanged("the command changed nothing in the base")
            self.opened.keep(fd)
        except BaseException:
            # What the command made of subvolumes would keep the copy from being deleted.
            self.opened.empty(fd)
            raise
        finally:
            os.close(fd)

    def _work(self, copy: int, path: str) -> bool:
        """Whether the command has changed the open *copy*, which is at *path*."""
        temporary = self.opened.temporary(path)
        faults = {one.text for one in self._faults(self.base)}
        points = [*(one.point for one in self.boot), *boot_filesystems.expected(copy)]
        before = covered.look(copy, points)
        tree = assembly.assemble(
            copy,
            self.opened.private,
            temporary=temporary,
            root=self.opened.root,
            boot=self.boot,
        )
        try:
            for point in tree.left_out:
                self.log(f"leave out {point}, which is merged over the root: the next boot starts "
                         "without it")  # fmt: skip
            if tree.files:
                self.log(f"use the base's own {amounts.listed(tree.files)}: on this machine "
                         "persistent files are bound over them")  # fmt: skip
            self._share_modules(tree)
            self._run(tree, copy)
        finally:
            tree.detach()
        mounting.remove_made(copy, tree.made)
        covered.require_same(copy, before)
        changed = unchanged.is_changed(
            self.opened, self.base, copy, self.record.modules(), self.order.scratch
        )
        if changed:
            self._take_modules(copy)
            relabelling.settle(self.opened, self.base, copy)
        self._require_no_new_fault(copy, faults)
        areas = [*self.record.areas(self.boot), *self._own_boot(path)]
        mentions.settle(areas, temporary, self.opened.name, self.log)
        return changed

    def _run(self, tree: Assembly, copy: int) -> None:
        with ExitStack() as stack:
            root = os.open(tree.path, DIRECTORY)
            stack.callback(os.close, root)
            check = Check(self.log, self.order.ask)
            check.begin(root)
            if self.order.act is not None:
                self.order.act(copy)
            else:
                self._command(tree)
            proofs.require_whole(root, None, None)
            check.require(root, [*self.record.areas(self.boot), *self._own_boot(tree.path)])

    def _command(self, tree: Assembly) -> None:
        words = self.order.words or command.shell(tree.path)
        status = command.run(tree.path, words, self.order.output)
        if self.order.words is None:
            self.order.confirm()
        elif status:
            raise CommandFailed(
                f"{self.order.name or self.order.words[0]} ended with exit status {status}",
                "the base is unchanged",
            )

    def _own_boot(self, copy: str) -> list[Area]:
        """``/boot`` of the copy at the path *copy*, where it is a directory of the copy itself."""
        present = Path(copy + _BOOT)
        if any(one.point == _BOOT for one in self.boot):
            return []
        if present.is_symlink() or not present.is_dir():
            return []
        saved = Path(f"{self.opened.path}{_BOOT}")
        return [Area(_BOOT, present, saved if saved.is_dir() else None)]

    def _share_modules(self, tree: Assembly) -> None:
        """New kernels put their modules into the base that is still in its place: if the
        power fails now, that base boots, perhaps with the new kernel.
        """
        folder = kernels.folder(self.base)
        if folder is None:
            return
        parent = kernels.parent(self.base)
        try:
            modules = os.open(os.path.basename(folder), DIRECTORY, dir_fd=parent)
            try:
                mounting.bind(modules, tree, f"/{folder}")
            finally:
                os.close(modules)
        finally:
            os.close(parent)

    def _take_modules(self, copy: int) -> None:
        ours = kernels.parent(self.base)
        if ours < 0:
            return
        try:
            theirs = kernels.parent(copy)
            if theirs < 0:
                raise Refused("the command removed the directory of the kernel modules")
            try:
                kernels.put(ours, "modules", theirs, "modules")
            finally:
                os.close(theirs)
        finally:
            os.close(ours)

    def _require_no_new_fault(self, copy: int, before: Collection[str]) -> None:
        """Refuse faults that the command has added. Faults that the base had before are only
        reported, so that a command can remove them.
        """
        for one in self._faults(copy):
            if one.text not in before:
                raise Refused(one.text, one.hint)
            self.log(f"warning: {one.text}; {one.hint}")
        here = os.open("/", DIRECTORY)
        try:
            for one in inspection.built_modules(here, copy):
                self.log(f"warning: {one.text}; {one.hint}")
            for text, hint in owners.look(here, copy, _with_the_bases_owners()):
                self.log(f"warning: {text}; {hint}")
        finally:
            os.close(here)

    def _faults(self, fd: int) -> list[inspection.Fault]:
        return inspection.inspect(fd, self.order.kept, self.opened.omitted(fd))


def _with_the_bases_owners() -> list[str]:
    """The declared paths, unless the store's accounts take precedence over those of a base."""
    try:
        plan = applied.load(Path("/"))
    except EphemerootError:
        return []
    declared = plan.declared() if plan is not None else {}
    return [] if PASSWD in declared and GROUP in declared else list(declared)
