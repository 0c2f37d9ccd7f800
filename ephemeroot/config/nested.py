"""Subvolumes in the live root: what is in them ages away with it, unless it is declared."""

from __future__ import annotations

import os

from ephemeroot.config import clean, volumes
from ephemeroot.config.examination import Examination
from ephemeroot.config.problem import Problem
from ephemeroot.wipers.contract import Wiper


def warnings(examination: Examination) -> list[Problem]:
    """A warning for each subvolume in the machine's root that nothing declared covers.

    What a subvolume is, the wiper says. Whoever may not look is told so.
    """
    wiping = examination.config.wiping
    if wiping is None or wiping.plugin is None:
        return []
    place = wiping.origin.place
    wiper = wiping.plugin.wiper(dict(wiping.settings))
    try:
        found = _in_root(wiper, examination.machine.root)
    except (PermissionError, ImportError) as error:
        hint = "run it as root" if isinstance(error, PermissionError) else "install btrfsutil"
        reason = "whether the root holds subvolumes that nothing declares cannot be seen"
        return [Problem.at(place, reason, hint, warning=True)]
    return [
        Problem.at(
            place,
            f"{path} is a subvolume in the root and nothing declares it: what is in it goes with "
            "the root, and is deleted with it one day",
            f'declare "{path}", or move the subvolume out of the root and make it a volume',
            warning=True,
        )
        for path in found
        if not _is_covered(path, examination)
    ]


def _in_root(wiper: Wiper, root: str) -> list[str]:
    """The same paths as the machine sees them."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return [f"/{path}" for path in wiper.nested(fd)]
    finally:
        os.close(fd)


def _is_covered(path: str, examination: Examination) -> bool:
    volume = volumes.covering(path, examination.volumes)
    if volume is not None and volume.persists:
        return True
    declared = (entry for entry in examination.declared if entry.is_directory)
    return any(clean.is_below(path, entry.path) for entry in declared)
