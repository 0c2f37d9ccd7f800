"""What the applied plan makes fresh, and the old roots of each, for the verbs that touch them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ephemeroot import terminal
from ephemeroot.config import Machine
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.root import Root
from ephemeroot.plan import applied
from ephemeroot.wipers.contract import Wiper
from ephemeroot.wipers.history import History, Installed

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Keeper:
    """Something that is made fresh at boot, and perhaps the old ones of it that are kept.

    ``target`` is its mount point, ``live`` where it is mounted now, ``device`` and
    ``subvolume`` where it lies; the rest as in ``Installed``.
    """

    target: str
    live: str
    wiper: Wiper
    device: str
    subvolume: str | None
    root: str | None
    root_flags: tuple[str, ...]
    volumes: dict[str, str]
    system: str

    @property
    def place(self) -> Root:
        """The place of the root, as the backend takes it."""
        return Root(self.device, self.subvolume, self.root, self.root_flags)

    @contextmanager
    def history(self, private: Namespace, *, writable: bool = False) -> Iterator[History]:
        """Its history, mounted in the namespace *private*, locked until the end. Without *writable*
        every mount for it is read-only.

        Raises ``Refused`` or ``Locked``, and ``Misconfigured`` if it has none.
        """
        with self.past(private, writable=writable) as history:
            if history is None:
                raise Misconfigured(f"{self.target} keeps no old roots")
            yield history

    @contextmanager
    def past(self, private: Namespace, *, writable: bool = False) -> Iterator[History | None]:
        """The same, or ``None`` for what keeps nothing and begins empty."""
        installed = Installed(
            device=self.device,
            private=private.directory(),
            writable=writable,
            subvolume=self.subvolume,
            target=self.target,
            live=self.live,
            root=self.root,
            root_flags=self.root_flags,
            volumes=self.volumes,
            system=self.system,
        )
        history = self.wiper.history(installed)
        try:
            yield history
        finally:
            if history is not None:
                history.close()


def applied_plan(root: str) -> Plan:
    """The applied plan of the machine below *root*. Raises ``Misconfigured`` without one."""
    plan = applied.load(Path(root))
    if plan is None:
        raise Misconfigured(
            "no plan was applied on this machine: nothing is made fresh",
            "run 'ephemeroot apply' first",
        )
    return plan


def keepers(root: str, volume: str | None = None) -> list[Keeper]:
    """All keepers of old roots of the applied plan of the machine below *root*; with *volume*
    only the one that is mounted there. Raises ``Misconfigured`` if no keeper is.
    """
    everything = made_fresh(root)
    found = [k for k in everything if k.wiper.keeps and volume in (None, k.target)]
    if volume is not None and not found:
        targets = ", ".join(keeper.target for keeper in everything) or "nothing"
        raise Misconfigured(f"{volume} keeps no old roots", f"made fresh at boot: {targets}")
    return found


def made_fresh(root: str, plan: Plan | None = None) -> list[Keeper]:
    """Everything that *plan*, else the applied one, makes fresh on the machine below *root*."""
    plan, machine = plan or applied_plan(root), Machine.of(root)
    volumes = {volume.mount_point: below(root, volume.mount_point) for volume in plan.volumes()}
    return [_keeper(wipe, machine, root, volumes, plan.system) for wipe in plan.wipes()]


def ask(
    root: str, plan: Plan, question: Callable[[Keeper, History], _Answer]
) -> list[tuple[Keeper, _Answer]]:
    """What *question* finds in the history of each thing that *plan* makes fresh below *root*.

    Only root may look, and only where the device is: whatever else cannot be opened is reported by
    the boot and by the checks of the configuration.
    """
    if os.geteuid() != 0:
        return []
    try:
        everything = made_fresh(root, plan)
    except EphemerootError:
        return []
    found = []
    for keeper in everything:
        try:
            with Namespace() as private, keeper.past(private) as history:
                if history is not None:
                    found.append((keeper, question(keeper, history)))
        except (EphemerootError, OSError):
            continue
    return found


def fresh_at(root: str, target: str) -> Keeper:
    """The keeper of *target*. Raises ``Misconfigured`` if *target* is not made fresh at boot."""
    everything = made_fresh(root)
    for keeper in everything:
        if keeper.target == target:
            return keeper
    targets = ", ".join(keeper.target for keeper in everything) or "nothing"
    raise Misconfigured(f"{target} is not made fresh", f"made fresh at boot: {targets}")


def _keeper(
    wipe: Wipe, machine: Machine, root: str, volumes: dict[str, str], system: str
) -> Keeper:
    wiper = wipe.load()
    # The plan's root, whatever this boot's command line names.
    subvolume = str(wipe.identity.get("subvolume") or "") or wipe.subvolume
    if wipe.target == "/":
        root_ = Root.named(machine, wipe.device, subvolume)
    else:
        root_ = Root(wipe.device, subvolume, None, ())
    if root_.device is None and wiper.ON_DEVICE:
        raise EphemerootError(
            f"neither the applied plan nor the kernel command line names the device of "
            f"{wipe.target}",
            "set device in the wiper's table, and 'ephemeroot apply'",
        )
    live = below(root, wipe.target)
    return Keeper(
        wipe.target,
        live,
        wiper,
        root_.device or "",
        root_.subvolume,
        root_.argument,
        root_.flags,
        volumes,
        system,
    )


def below(root: str, path: str) -> str:
    """*path* of the machine below *root*."""
    return os.path.join(root, path.lstrip("/")) if path != "/" else root


def confirm(question: str, about: Iterable[str] = ()) -> None:
    """Print the lines *about* and ask, on standard error: standard output may be JSON, or a file.
    Return only if the answer is yes.

    Raises ``Misconfigured`` without a terminal, ``EphemerootError`` if the answer is not yes.
    """
    if not sys.stdin.isatty():
        raise Misconfigured("there is no terminal to ask for confirmation", "add --yes")
    sys.stdout.flush()
    sys.stderr.writelines(f"{terminal.printable(line)}\n" for line in about)
    sys.stderr.write(f"{terminal.printable(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise EphemerootError("nothing was changed")
