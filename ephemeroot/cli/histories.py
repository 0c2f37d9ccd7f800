"""What the applied plan makes fresh, and the old roots of each, for the verbs that touch them."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.config import Machine, fstab
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.wipe import Wipe
from ephemeroot.image import applied
from ephemeroot.linux import kernel
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.history import History

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 16384 | 1 << 18


@dataclass(frozen=True)
class Keeper:
    """Something that is made fresh and whose old ones are kept.

    ``target`` is its mount point, ``device`` and ``subvolume`` where it lies.
    """

    target: str
    wiper: Btrfs
    device: str
    subvolume: str | None

    @contextmanager
    def history(self) -> Iterator[History]:
        """Its history, mounted where nobody else sees it, locked until the end.

        Raises ``Refused`` or ``Locked``.
        """
        with (
            tempfile.TemporaryDirectory(prefix="ephemeroot-") as private,
            self.wiper.history(self.device, self.subvolume, private) as history,
        ):
            yield history


def applied_plan(root: str) -> Plan:
    """The applied plan of the machine below *root*. Raises ``Misconfigured`` without one."""
    plan = applied.load(Path(root))
    if plan is None:
        raise Misconfigured(
            "nothing was applied on this machine yet: nothing is made fresh",
            "run 'ephemeroot apply' first",
        )
    return plan


def keepers(root: str, volume: str | None = None) -> list[Keeper]:
    """All keepers of the applied plan of the machine below *root*; with *volume* only the
    one that is mounted there; raises ``Misconfigured`` if that is none.
    """
    wipes = [o for o in applied_plan(root).wipe if isinstance(o, Wipe)]
    found = []
    for wipe in wipes:
        wiper = wipe.load()
        if isinstance(wiper, Btrfs) and volume in (None, wipe.target):
            found.append(_keeper(wipe, wiper, Machine.of(root)))
    if volume is not None and not found:
        targets = ", ".join(wipe.target for wipe in wipes) or "nothing"
        raise Misconfigured(f"{volume} keeps no old roots", f"made fresh at boot: {targets}")
    return found


def _keeper(wipe: Wipe, wiper: Btrfs, machine: Machine) -> Keeper:
    device, subvolume = wipe.device, wipe.subvolume
    if wipe.target == "/":
        lines = [CommandLine(text) for _, text in machine.command_lines]
        roots = [line for line in machine.fstab if line.mount_point == "/"]
        devices = [*(line.root_device() for line in lines), *(line.device for line in roots)]
        flags = [line.root_flags() for line in lines] + [list(line.options) for line in roots]
        device = device or next(filter(None, devices), None)
        subvolume = subvolume or next(
            filter(None, (fstab.option(options, "subvol") for options in flags)), None
        )
    if device is None:
        raise EphemerootError(
            f"neither the applied plan nor the kernel command line names the device of "
            f"{wipe.target}",
            "set device in the wiper's table, and 'ephemeroot apply'",
        )
    return Keeper(wipe.target, wiper, device, subvolume)


def hide_mounts() -> None:
    """Move this process into a mount namespace of its own: what is mounted from now on is
    nobody else's business, and gone when it ends, however it ends. Raises ``OSError``.
    """
    if kernel.libc.unshare(_CLONE_NEWNS) != 0:
        kernel.raise_errno("a mount namespace")
    flags = ctypes.c_ulong(_MS_REC_PRIVATE)
    if kernel.libc.mount(b"none", b"/", None, flags, None) != 0:
        kernel.raise_errno("/")


def confirm(question: str) -> None:
    """Return only if the answer is yes.

    Raises ``Misconfigured`` if nobody can be asked, ``EphemerootError`` if the answer is no.
    """
    if not sys.stdin.isatty():
        raise Misconfigured("nobody can be asked, for there is no terminal", "add --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise EphemerootError("nothing was changed")
