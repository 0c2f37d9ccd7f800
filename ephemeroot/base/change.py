"""Changes of a base: made from the running root, changed by a command, or rolled back.

Each is a rotation: a copy is made and proven, takes the base's place in one step, and the
previous base is kept for a while. Changes before that step are undone after an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.backends.contract import Bases
from ephemeroot.base import assembly, boot_filesystems, inspection, kernels, mounting
from ephemeroot.base.boot_kernels import Area, find
from ephemeroot.base.mounting import Assembly
from ephemeroot.base.record import Record
from ephemeroot.base.unchanged import Unchanged
from ephemeroot.base.work import DIRECTORY, Order, Work
from ephemeroot.errors import Misconfigured, Refused
from ephemeroot.hooks.guards import proofs
from ephemeroot.linux import kernel_modules
from ephemeroot.machine import swap
from ephemeroot.wipers.contract import Outcome
from ephemeroot.wipers.oldroot import OldRoot

Log = Callable[[str], None]


def recover(opened: Bases, log: Log) -> None:
    """Complete or take back what an earlier run left, as it left it."""
    _recover(opened, log, cut_off=True)


def _recover(opened: Bases, log: Log, *, cut_off: bool) -> None:
    Record(opened).recover(log, cut_off=cut_off)
    opened.recover(log)


def create(opened: Bases, log: Log, *, dry_run: bool, kept: Collection[str] = ()) -> Outcome:
    """Make the first base, a copy of the machine's root. *kept* are paths that a new root does not
    take from it. Raises ``Refused``.
    """
    if opened.identity() is not None:
        raise Misconfigured(
            f"a base already exists: {opened.name}",
            "change it with 'ephemeroot base run', show it with 'ephemeroot base list'",
        )
    root = opened.running()
    try:
        _require_sound(opened, root, kept)
    finally:
        os.close(root)

    def prove(path: str) -> None:
        fd = os.open(path, DIRECTORY)
        try:
            # A machine that is being built does not run the kernel of this one.
            _prove_whole(opened, fd, os.uname().release if opened.here == "/" else None)
            if not dry_run:
                opened.keep(fd)
        finally:
            os.close(fd)

    with _settled(opened, log, dry_run=dry_run):
        try:
            return opened.replace(prove, log, of_root=True, dry_run=dry_run)
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
            raise Refused(
                f"the root {opened.root} cannot be copied while a swap file in it is in use",
                "find it with 'swapon --show', and run 'swapoff' for it",
            ) from error


def _require_sound(opened: Bases, root: int, kept: Collection[str]) -> None:
    """Raise ``Refused`` for all that the running root has and a base must not have."""
    active = swap.active(os.stat(opened.here).st_dev)
    if active:
        raise Refused(
            f"the swap file {active[0]} is in the root and in use: the root cannot be copied while "
            "it is active",
            inspection.swap_remedy(active[0]),
        )
    found = inspection.inspect(root, kept, opened.omitted(root))
    if found:
        raise Refused("; ".join(one.text for one in found), "; ".join(one.hint for one in found))


def run(opened: Bases, order: Order, log: Log) -> Outcome | None:
    """Carry out *order* in a copy of the base, which then takes its place; ``None`` if the command
    has changed nothing in it, which leaves what it did elsewhere.

    Raises ``CommandFailed``, ``Interrupted``, the errors of ``order.confirm`` and ``order.ask``,
    and ``Refused`` if the result could not boot: everything is then unchanged.
    """
    base = _writable_base(opened)
    record = Record(opened)
    try:
        boot_filesystems.require_mounted()
        boot = boot_filesystems.find()
        with _settled(opened, log):
            record.write(boot, log)
            try:
                outcome = opened.replace(Work(opened, record, base, boot, order, log), log)
            except Unchanged as unchanged:
                log(f"{unchanged.message}: the base is kept, and no old base is made")
                record.remove()
                return None
            record.conclude(log)
    finally:
        os.close(base)
    return outcome


def foresee(opened: Bases) -> None:
    """Raise what ``run`` would raise before it changes anything."""
    base = _writable_base(opened)
    try:
        boot_filesystems.require_mounted(awake=False)
        boot_filesystems.find()
    finally:
        os.close(base)


def rollback(opened: Bases, entry: OldRoot, log: Log, *, dry_run: bool) -> Outcome:
    """Put a copy of the old base *entry* instead of the base, which becomes an old one.

    It gets the modules of the kernels that only the present one knows: they are what the
    boot loader has.
    """

    def prove(path: str) -> None:
        fd = os.open(path, DIRECTORY)
        try:
            if dry_run:
                return
            base = opened.present()
            try:
                for release in kernels.carry_over(base, fd) if base >= 0 else []:
                    log(f"add the modules of the kernel {release}")
            finally:
                if base >= 0:
                    os.close(base)
            _prove_whole(opened, fd, None)
            _name_lost_kernels(fd, log)
            opened.keep(fd)
        finally:
            os.close(fd)

    with _settled(opened, log, dry_run=dry_run):
        return opened.replace(prove, log, old=entry.label, dry_run=dry_run)


@contextmanager
def _settled(opened: Bases, log: Log, *, dry_run: bool = False) -> Iterator[None]:
    """Complete or undo the changes made inside, if they fail or are interrupted.

    An interruption can arrive after the exchange: which of the two it is is read from the
    disk, as after a power cut, and never from how far the code has come.
    """
    try:
        yield
    except BaseException:
        if not dry_run:
            _recover(opened, log, cut_off=False)
        raise


def _name_lost_kernels(base: int, log: Log) -> None:
    """Warn of kernels that boot and that neither base has modules for."""
    known = kernel_modules.releases(base)
    if not known:
        return
    for kernel in find(
        [Area(one.point, Path(one.point)) for one in boot_filesystems.find(to_save=False)]
    ):
        if kernel.problem:
            log(f"warning: {kernel.problem}")
        elif kernel.release not in known:
            log(f"warning: {kernel.shown} ({kernel.release}) would find no modules in this base")


def _writable_base(opened: Bases) -> int:
    fd = opened.present()
    if fd < 0:
        raise Misconfigured(f"there is no base {opened.name} yet", "run 'ephemeroot base create'")
    if not opened.is_writable(fd):
        os.close(fd)
        raise Refused(
            f"the base {opened.name} is a read-only subvolume",
            "run 'btrfs property set -ts PATH ro false' to make it writable",
        )
    return fd


def _prove_whole(opened: Bases, copy: int, release: str | None) -> None:
    """Raise ``Refused`` unless the open *copy*, with all that is mounted on this
    machine, could boot.
    """
    tree = assembly.assemble(copy, opened.private, here=opened.here)
    try:
        _require_whole(tree, release)
    finally:
        tree.detach()
        mounting.remove_made(copy, tree.made)


def _require_whole(tree: Assembly, release: str | None = None) -> None:
    fd = os.open(tree.path, DIRECTORY)
    try:
        proofs.require_whole(fd, None, release)
    finally:
        os.close(fd)
