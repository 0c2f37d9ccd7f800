"""The base of the machine's root, opened to look up declared paths in the next root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ephemeroot.config.model import Configuration, Volume, Wiping
from ephemeroot.config.syntax.problem import Problem
from ephemeroot.errors import EphemerootError, Locked
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.facts import Machine
from ephemeroot.machine.root import Root
from ephemeroot.wipers.history import Installed


@contextmanager
def opened(
    config: Configuration, machine: Machine, mounted: Sequence[Volume], problems: list[Problem]
) -> Iterator[int | None]:
    """The open root directory of the base, read-only. ``None`` if new roots begin empty, if the
    user is not root, if the machine is another one, or if the base is missing.

    A base that another run has locked is a warning in *problems*.
    """
    base = None
    wiping = config.wiping
    if wiping is not None and wiping.plugin is not None and not machine.another:
        if os.geteuid() == 0:
            base = _open(wiping, machine, mounted, problems)
    try:
        yield base
    finally:
        if base is not None:
            os.close(base)


def _open(
    wiping: Wiping, machine: Machine, mounted: Sequence[Volume], problems: list[Problem]
) -> int | None:
    """The open root directory, as a detached mount: it stays valid without the namespace and the
    lock of the history.
    """
    assert wiping.plugin is not None
    place = Root.named(machine, wiping.device, wiping.subvolume)
    if place.device is None and wiping.plugin.wiper.ON_DEVICE:
        return None
    wiper = wiping.plugin.wiper(dict(wiping.settings))
    try:
        with Namespace() as private:
            history = wiper.history(
                Installed(
                    device=place.device or "",
                    private=private.directory(),
                    subvolume=place.subvolume,
                    live=machine.root,
                    root=place.argument,
                    root_flags=place.flags,
                    volumes={
                        volume.mount_point: machine.show(volume.mount_point)
                        for volume in mounted
                        if volume.needed_for_boot
                    },
                    system=machine.system,
                )
            )
            if history is None:
                return None
            with history:
                return history.mount_base()
    except Locked as error:
        problems.append(
            Problem.at(
                wiping.origin.place,
                f"cannot look up declared paths in the base: {error.message}",
                "run the command again after the other one",
                warning=True,
            )
        )
    except (EphemerootError, OSError, ImportError):
        pass  # other checks report problems of the device, the base or the library
    return None
