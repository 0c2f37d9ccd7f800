"""What a declared directory would cover of the base, and homes of which nothing stays."""

from __future__ import annotations

from collections.abc import Sequence

from ephemeroot.config import clean
from ephemeroot.config.declared import Declared
from ephemeroot.config.machine import Machine
from ephemeroot.config.model import Configuration
from ephemeroot.config.problem import Place, Problem
from ephemeroot.config.volumes import Volume
from ephemeroot.hooks import proofs

_FIRST_USER = 1000
_NOBODY = 65534

_OF_THE_BASE = frozenset((*proofs.NEEDED, "/usr/libexec"))


def check(
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Note in *problems* what would be covered, with warnings about homes."""
    if config.wiping is not None:
        for entry in declared:
            _check_hidden(entry, config, mounted, problems)
    for volume in mounted:
        if volume.wipe is not None:
            _check_homes(volume, volume.wipe.origin.place, machine, declared, problems)


def _check_hidden(
    entry: Declared, config: Configuration, mounted: Sequence[Volume], problems: list[Problem]
) -> None:
    """A directory of the base that the store's would cover: an upgrade of the base is not seen."""
    if not entry.is_directory or entry.method == "overlay":
        return
    if any(clean.is_below(entry.path, volume.mount_point) for volume in mounted):
        return  # it is not the base's
    if entry.path == "/boot" and not config.external_boot:
        reason = "the boot loader reads the base's, not the store's"
        hint = "remove the entry, and mount /boot from a partition of its own"
    elif entry.path in _OF_THE_BASE:
        reason = "programs or modules that an upgrade of the base brings are not seen"
        hint = 'remove the entry, or set method = "overlay"'
    else:
        return
    line = f"{entry.path} would cover that directory of the base: {reason}"
    problems.append(Problem.at(entry.place, line, hint))


def _check_homes(
    volume: Volume,
    place: Place,
    machine: Machine,
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    point = volume.mount_point
    bare = [
        user.name
        for user in machine.accounts.users.values()
        if _FIRST_USER <= user.uid < _NOBODY
        and user.home != point
        and clean.is_below(user.home, point)
        and not any(_touch(entry.path, user.home) for entry in declared)
    ]
    if bare:
        more = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
        problems.append(
            Problem.at(
                place,
                f"{point} is made fresh, and nothing is declared in the home of "
                f"{', '.join(bare[:3])}{more}: all of it is forgotten at each boot",
                f'declare its directories in [persistence."STORE".users.{bare[0]}]',
                warning=True,
            )
        )


def _touch(path: str, home: str) -> bool:
    return clean.is_below(path, home) or clean.is_below(home, path)
