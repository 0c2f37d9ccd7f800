"""Subvolumes in the live root: what is in them ages away with it, unless it is declared."""

from __future__ import annotations

import errno
import os

from ephemeroot.config import clean, volumes
from ephemeroot.config.examination import Examination
from ephemeroot.config.problem import Problem
from ephemeroot.wipers.btrfs import subvolumes


def warnings(examination: Examination) -> list[Problem]:
    """A warning for each subvolume in the machine's root that nothing declared covers.

    Nothing if the root is not made fresh by btrfs, or is no btrfs now. Whoever may not
    look is told so.
    """
    wiping = examination.config.wiping
    if wiping is None or wiping.plugin is None or wiping.wiper != "btrfs":
        return []
    place = wiping.origin.place
    try:
        found = _in_root(examination.machine.root)
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


def _in_root(root: str) -> list[str]:
    """Paths, as the machine sees them, of the subvolumes in the one that is its root."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        subvolumes.filesystem(fd)
        if not subvolumes.is_subvolume(fd):
            return []
        number = subvolumes.identify(fd).id
        if number == subvolumes.TOP_LEVEL:  # refused as a root, and holds everything
            return []
        return sorted(f"/{path}" for path, _ in subvolumes.nested(fd, number))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):  # no btrfs
            return []
        if error.errno == errno.EPERM:
            raise PermissionError(error.errno, error.strerror, root) from error
        raise
    finally:
        os.close(fd)


def _is_covered(path: str, examination: Examination) -> bool:
    volume = volumes.covering(path, examination.volumes)
    if volume is not None and volume.persists:
        return True
    declared = (entry for entry in examination.declared if entry.is_directory)
    return any(clean.is_below(path, entry.path) for entry in declared)
