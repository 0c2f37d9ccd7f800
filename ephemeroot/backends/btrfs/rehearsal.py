"""A rehearsal on btrfs: snapshots of the root and the base in a directory that is thrown away."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ephemeroot.backends.btrfs import throwaway
from ephemeroot.backends.btrfs.throwaway import Throwaway
from ephemeroot.backends.contract import Rehearsal
from ephemeroot.errors import Misconfigured
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.machine.root import Root
from ephemeroot.wipers.btrfs.toplevel import Toplevel


class Snapshots(Rehearsal):
    """The wiper uses only the directory ``name`` at the top level."""

    def __init__(self, wipe: Wipe, place: Root, root: Path, notes: list[str]) -> None:
        if place.device is None:
            raise Misconfigured("the root's device is not named", "set device in [root.btrfs]")
        mount = mountinfo.mounted_at(os.path.realpath(root))
        if mount is not None and mount.fstype == "btrfs":
            # The mount now is that filesystem, whatever udev has or has not made of its name.
            place = replace(place, device=mount.source)
        super().__init__(wipe, place, root, notes)
        # Both processes need the name; the one that simulates the boot creates it.
        self.name = throwaway.new_name()

    def prepare(self, private: str) -> Wipe:
        """Leftovers of earlier rehearsals go first."""
        top = Toplevel(str(self.place.device), [], private)
        throwaway.sweep(top)
        away = Throwaway(top, self.name)
        settings = dict(self.wipe.settings)
        root = away.snapshot(self.place.subvolume or "", "root")
        base = settings.get("base")
        if isinstance(base, str) and base:
            settings["base"] = away.snapshot(base.strip("/"), "base")
        settings["old-roots"] = f"{away.name}/old_roots"
        if "old-bases" in settings:
            settings["old-bases"] = f"{away.name}/old_bases"
        settings["min-free"] = None
        return self.changed(settings, device=self.place.device, subvolume=root)

    def mount(self, wipe: Wipe) -> int:
        return mounts.create("btrfs", str(self.place.device), [f"subvol={wipe.subvolume}"])

    def tidy(self, private: str) -> list[str]:
        """Nothing is mounted in them any more: that was in the namespace of the process that
        simulated the boot, and it has left it or ended.
        """
        with Toplevel(str(self.place.device), [], private) as top:
            return throwaway.sweep(top, self.name)
