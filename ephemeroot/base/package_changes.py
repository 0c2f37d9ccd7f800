"""Which packages of the running root are not in the base: the next boot forgets them."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

from ephemeroot.backends.contract import Bases
from ephemeroot.base import package_managers, package_record
from ephemeroot.base.package_managers import PackageManager
from ephemeroot.base.package_record import Packages
from ephemeroot.errors import EphemerootError

ALLOW = "EPHEMEROOT_PACKAGE_CHANGE"
"""An environment variable: with the value ``allow`` a transaction on the running root is let pass
silently.
"""


def find(place: Bases, manager: PackageManager, root: Path) -> Packages:
    """The packages that were changed on the running root and that the base has otherwise; they are
    recorded below *root*. An upgrade of the base since the root was made is not such a change.

    Raises ``EphemerootError`` if packages cannot be listed, or if there is no base.
    """
    with ExitStack() as stack:
        base = place.present()
        if base < 0:
            raise EphemerootError(f"the base {place.name} is missing")
        stack.callback(os.close, base)
        here, there = manager.installed("/"), manager.installed(_path(base))
        try:
            origin = place.origin()
        except EphemerootError:
            origin = -1
        if origin >= 0:
            stack.callback(os.close, origin)
            before = manager.installed(_path(origin))
        else:
            # Not known: only what the base does not have at all is certainly the root's own.
            before = {name: here[name] for name in {*here} & {*there}}
    # A package that was made permanent and then reverted has its original state.
    changed = {*package_record.changed(root), *package_managers.changed(before, here)}
    found = {
        name: (there.get(name), here.get(name))
        for name in sorted(changed)
        if there.get(name) != here.get(name)
    }
    package_record.write(root, found, changed)
    return found


def _path(fd: int) -> str:
    """A path of the open directory *fd* that other processes can open, too."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def refresh(root: Path, place: Bases, manager: PackageManager) -> None:
    """Bring an existing record up to date after a change of the base."""
    if (root / package_record.RECORD).exists():
        with suppress(EphemerootError, OSError):
            find(place, manager, root)
