"""Declared directories that would hide content of the base, programs that could not be started,
and homes without declared paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ephemeroot import amounts
from ephemeroot.config import volumes
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, Volume
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.machine.facts import Machine

_FIRST_USER = 1000
_NOBODY = 65534

_OF_THE_BASE = re.compile(
    r"(/usr)?/(bin|sbin|games|include|share|src|libexec|lib[^/]*)"
    r"|(/usr)?/lib[^/]*/(modules|firmware|systemd|udev|dracut|initcpio|[^/]*-linux-[^/]*)(/.*)?"
)
"""Directories whose content in the base the system needs."""

_STARTED = re.compile(
    r"/usr|(/usr)?/(bin|sbin|libexec|lib[^/]*)(/(systemd|udev|[^/]*-linux-[^/]*))?"
)
"""Directories with programs or libraries without which no system starts."""

_BOOT = ("/boot", "/efi")


def check(
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Note hidden directories of the base in *problems*, with warnings about homes."""
    if config.wiping is not None:
        for entry in declared:
            _check_hidden(entry, config, machine, mounted, problems)
    for entry in declared:
        _check_noexec(entry.path, entry.options.mount_options, entry.place, problems)
    for volume in mounted:
        _check_noexec(volume.mount_point, volume.options, volume.place, problems)
        if volume.wipe is not None:
            _check_homes(volume, volume.wipe.origin.place, machine, declared, problems)


def _check_hidden(
    entry: Declared,
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    problems: list[Problem],
) -> None:
    """Note a declared path that hides content of the base, and so an upgrade of the base."""
    if entry.options.method == "overlay" or not clean.is_system(entry.path) or entry.path == "/usr":
        return
    volume = volumes.covering(entry.path, mounted)
    if volume is not None and "ro" not in volume.options:
        return  # it is not in the base, and an upgrade writes to the store
    kind = "directory" if entry.is_directory else "file"
    warning = False
    if any(clean.is_below(entry.path, top) for top in _BOOT):
        if config.external_boot:
            return
        reason = "the boot loader reads the files of the base, not of the store"
        hint = "remove the entry, and mount /boot from a separate partition"
    else:
        warning = not (entry.is_directory and _OF_THE_BASE.fullmatch(entry.path))
        if warning and (machine.another or not os.path.lexists(machine.show(entry.live))):
            return
        reason = "programs and modules from an upgrade of the base would not be visible"
        hint = "remove the entry" + (', or set method = "overlay"' if entry.is_directory else "")
    line = f"{entry.path} would hide the {kind} of the base: {reason}"
    problems.append(Problem.at(entry.place, line, hint, warning=warning))


def _check_noexec(path: str, options: Sequence[str], place: Place, problems: list[Problem]) -> None:
    """The last of the two options takes effect (mount(8))."""
    said = [option for option in options if option in ("exec", "noexec")]
    if said[-1:] == ["noexec"] and _STARTED.fullmatch(path):
        reason = f"{path} would be mounted with noexec: no program and no library there can be used"
        problems.append(Problem.at(place, reason, 'remove "noexec"'))


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
        and not any(_overlap(entry.path, user.home) for entry in declared)
    ]
    if bare:
        problems.append(
            Problem.at(
                place,
                f"{point} is wiped, but no path is declared in the home of "
                f"{amounts.listed(bare, 3)}: each boot forgets all files there",
                f'declare its directories in [persistence."STORE".users.{bare[0]}]',
                warning=True,
            )
        )


def _overlap(path: str, home: str) -> bool:
    return clean.is_below(path, home) or clean.is_below(home, path)
