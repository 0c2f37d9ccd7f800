"""Kernel modules of a base: whichever kernel boots must find its own.

The boot loader's files are not in the base, so they change at another moment than it.
Between the two, and after a cut between the two, a kernel may boot that only one of the
bases knows. Therefore modules are only ever added to a base before its kernel can boot.
"""

from __future__ import annotations

import os

from ephemeroot.linux import copying, immutable, kernel_modules, paths, removal

PLACES = ("usr/lib/modules", "lib/modules")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_TEMPORARY = ".modules.ephemeroot"


def folder(base: int) -> str | None:
    """Where the open *base* keeps the modules of its kernels, relative to it; or ``None``."""
    for path in PLACES:
        try:
            os.close(paths.open_beneath(base, path, _DIRECTORY))
        except OSError:  # missing, or a link into /usr
            continue
        return path
    return None


def releases(base: int) -> list[str]:
    """The kernels that the open *base* has modules of, by the boot proof's own measure."""
    return sorted(kernel_modules.releases(base))


def carry_over(source: int, target: int) -> list[str]:
    """Give the open base *target* the modules that only the open base *source* has.

    Returns the kernels' releases. Each arrives complete or not at all.
    """
    path = folder(source)
    if path is None:
        return []
    here = paths.open_beneath(source, path, _DIRECTORY)
    try:
        missing = set(releases(source)) - set(releases(target))
        wanted = sorted(missing & set(paths.names(here)))
        if not wanted:
            return []
        place = folder(target) or path
        paths.make_directories(target, place, 0o755)
        there = paths.open_beneath(target, place, _DIRECTORY)
        try:
            for release in wanted:
                removal.remove(there, _TEMPORARY, unlock=True)
                copying.Copier().copy(here, release, there, _TEMPORARY)
                how = paths.RENAME_NOREPLACE
                immutable.rename(there, _TEMPORARY, there, release, how=how)
        finally:
            os.close(there)
    finally:
        os.close(here)
    return wanted


def put(source: int, name: str, target: int, new_name: str) -> None:
    """Put a copy of the directory *name* of the open *source* into the open *target* as
    *new_name*, in one step, replacing an existing one.
    """
    removal.remove(target, _TEMPORARY, unlock=True)
    copying.Copier().copy(source, name, target, _TEMPORARY)
    try:
        immutable.rename(target, _TEMPORARY, target, new_name, how=paths.RENAME_EXCHANGE)
    except FileNotFoundError:
        immutable.rename(target, _TEMPORARY, target, new_name, how=paths.RENAME_NOREPLACE)
    removal.remove(target, _TEMPORARY, unlock=True)


def parent(base: int) -> int:
    """The open directory of *base* that has the modules' directory ``modules`` in it; -1 if
    the base keeps no modules.
    """
    path = folder(base)
    if path is None:
        return -1
    return paths.open_beneath(base, path.rpartition("/")[0], _DIRECTORY)
