"""The files that ``ephemeroot setup`` installs: files, links, and units of the running system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.image import data, units

PROGRAM = "/usr/bin/ephemeroot"
"""The path in the installed files, which ``setup`` replaces by that of the program."""

# Units of the running system, with the units that want them; `ephemeroot image` adds those of the
# initramfs to images.
_SYSTEM_UNITS = {
    "ephemeroot-boot-complete.service": "multi-user.target",
    "ephemeroot-prune.service": "multi-user.target",
    "ephemeroot-copy.path": "sysinit.target",
    "ephemeroot-copy.service": "",
    "ephemeroot-copy-again.service": "multi-user.target",
    "ephemeroot-copy-last.service": "sysinit.target",
    "ephemeroot-leave.service": "sysinit.target",
    # Enabled by the administrator.
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
        """Whether a file of that name exists under *root*."""
        return os.path.lexists(self.place(root))

    def place(self, root: Path) -> Path:
        """Its path under *root*."""
        return root / self.name.lstrip("/")


def for_module(folder: str, program: str) -> list[Item]:
    """The files in the *folder* of every generator's module: the script ``boot``, the unit by which
    an image reports that *program* is missing, and a link to *program*.
    """
    inert = data.folder("systemd") / units.INERT
    return [
        Item(f"{folder}/boot", data.boot().read_bytes(), 0o755),
        Item(f"{folder}/{units.INERT}", inert.read_bytes()),
        Item(f"{folder}/ephemeroot", target=program),
    ]


def system_units(program: str) -> list[Item]:
    """The units of the running system, which call *program*, and links in the units that want
    them.
    """
    installed = []
    for name, target in _SYSTEM_UNITS.items():
        text = data.unit(name).replace(PROGRAM, program)
        installed.append(Item(f"{units.FOLDER}/{name}", text.encode()))
        if target:
            link = f"{units.FOLDER}/{target}.wants/{name}"
            installed.append(Item(link, target=f"../{name}"))
    # Not enabled: each user or the administrator decides.
    text = data.unit(f"user/{_USERS_UNIT}").replace(PROGRAM, program)
    installed.append(Item(f"/usr/lib/systemd/user/{_USERS_UNIT}", text.encode()))
    return installed
