"""Plans and trees for the tests of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import assembly, entry
from ephemeroot.image.contents import BUNDLE, Contents
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.wipers.btrfs import Btrfs

UUID = "3c2bc5a1-0000-4000-8000-123456789abc"


BTRFS = "ephemeroot.wipers.btrfs:Btrfs"


def wipe(attribute: str = BTRFS) -> Wipe:
    options = Btrfs.OPTIONS if attribute == BTRFS else ()
    settings = {option.name: option.default for option in options}
    return Wipe(target="/", wiper="btrfs", attribute=attribute, settings=settings)


def volume(**values: Any) -> MountVolume:
    given: dict[str, Any] = {
        "mount_point": "/persistent",
        "name": "persistent",
        "device": f"UUID={UUID}",
        "type": "btrfs",
        "options": ["subvol=persistent"],
    }
    return MountVolume(**{**given, **values})


def plan(*more: Operation, on_failure: dict[str, str] | None = None, generation: int = 7) -> Plan:
    store = Store(path="/persistent", volume="persistent", id="an-id")
    return Plan(
        wipe=[volume(), store, *(more or (wipe(),))],
        persist=[
            Attach(mount_point="/persistent", volume="persistent"),
            Directory(path="/var/log", store="/persistent", source="var/log"),
        ],
        on_failure=on_failure,
        generation=generation,
    )


def bundled(made: Contents) -> entry.Bundle:
    """The modules of the program and of the standard library in an armed tree."""
    return entry.Bundle((made.tree.top / BUNDLE.lstrip("/")).read_bytes())


def put_together(top: Path, *more: Operation) -> Contents:
    """An armed tree; a failure shows the reason."""
    made = assembly.put_together(top, plan(*more).dump(), DracutTarget())
    assert made.reason is None
    return made
