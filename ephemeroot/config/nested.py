"""Subvolumes in the live root: they are retired and deleted with it, unless they are declared."""

from __future__ import annotations

import os

from ephemeroot.config import volumes
from ephemeroot.config.examination import Examination
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.wipers.contract import Wiper

FEW = 3
"""The maximum number of subvolumes of one directory that are named one by one."""


def warnings(examination: Examination) -> list[Problem]:
    """A warning for each undeclared subvolume in the machine's root, or one for all of a directory
    if there are many.

    The wiper finds the subvolumes. Without the necessary permissions, the only warning is about
    that.
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
        reason = "cannot check the root for undeclared subvolumes"
        return [Problem.at(place, reason, hint, warning=True)]
    groups: dict[str, list[str]] = {}
    for path in found:
        if not _is_covered(path, examination):
            groups.setdefault(os.path.dirname(path), []).append(path)
    warnings_ = []
    for directory, paths in groups.items():
        if len(paths) > FEW:
            # A container engine makes a subvolume for each layer.
            warnings_.append(_warning(place, f"{len(paths)} subvolumes in {directory}", directory))
        else:
            warnings_ += [_warning(place, path, path) for path in paths]
    return warnings_


def _warning(place: Place, what: str, declare: str) -> Problem:
    is_one = what == declare
    return Problem.at(
        place,
        f"{what} {'is an undeclared subvolume' if is_one else 'are undeclared'} in the root: "
        f"{'it is' if is_one else 'they are'} retired with the root, and later deleted with it",
        f'declare "{declare}", or make {"it" if is_one else "them"} a volume outside the root',
        warning=True,
    )


def _in_root(wiper: Wiper, root: str) -> list[str]:
    """The subvolumes in the root, as absolute paths of the machine."""
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
