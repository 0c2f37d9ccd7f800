"""What ``ephemeroot setup`` puts into a system: files and links, and the system's own units."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.image import data, units

PROGRAM = "/usr/bin/ephemeroot"
"""The program that the installed files call, before it is replaced by another."""

# Of the real system, with what wants them; the initramfs's are put into images by
# `ephemeroot image`.
_SYSTEM_UNITS = {
    "ephemeroot-boot-complete.service": "multi-user.target",
    "ephemeroot-prune.service": "multi-user.target",
    "ephemeroot-copy.path": "sysinit.target",
    "ephemeroot-copy.service": "",
    "ephemeroot-copy-again.service": "multi-user.target",
    "ephemeroot-copy-last.service": "sysinit.target",
    "ephemeroot-leave.service": "sysinit.target",
    # For the administrator to enable.
    "ephemeroot-unsaved.service": "",
    "ephemeroot-unsaved.timer": "",
    "ephemeroot-unsaved-shutdown.service": "",
    "ephemeroot-packages.service": "",
    "ephemeroot-upgrade.service": "",
    "ephemeroot-upgrade.timer": "",
}
_USERS_UNIT = "ephemeroot-home.service"


@dataclass(frozen=True)
class Item:
    """One file (``content`` and ``mode``) or link (``target``) called ``name``."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    target: str | None = None

    def exists(self, root: Path) -> bool:
        """Whether something has that name below *root*."""
        return os.path.lexists(self.place(root))

    def place(self, root: Path) -> Path:
        """Where it is below *root*."""
        return root / self.name.lstrip("/")


def for_module(folder: str, program: str) -> list[Item]:
    """What every generator's module has in its own *folder*: the script ``boot`` and the unit
    with which an image says that there was no *program*, and a link to that.
    """
    inert = data.folder("systemd") / units.INERT
    return [
        Item(f"{folder}/boot", data.boot().read_bytes(), 0o755),
        Item(f"{folder}/{units.INERT}", inert.read_bytes()),
        Item(f"{folder}/ephemeroot", target=program),
    ]


def system_units(program: str) -> list[Item]:
    """The units of the real system, calling *program*, and what wants them."""
    installed = []
    for name, target in _SYSTEM_UNITS.items():
        text = data.unit(name).replace(PROGRAM, program)
        installed.append(Item(f"{units.FOLDER}/{name}", text.encode()))
        if target:
            link = f"{units.FOLDER}/{target}.wants/{name}"
            installed.append(Item(link, target=f"../{name}"))
    # Nothing wants it: that is for each user to say, or for the administrator.
    text = data.unit(f"user/{_USERS_UNIT}").replace(PROGRAM, program)
    installed.append(Item(f"/usr/lib/systemd/user/{_USERS_UNIT}", text.encode()))
    return installed
