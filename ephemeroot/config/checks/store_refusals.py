"""Errors of the places of stores and old roots: on the root, or inside a wiped subvolume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ephemeroot.config import volumes
from ephemeroot.config.checks import histories
from ephemeroot.config.model import Configuration, StoreEntry, Volume, Wiping
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake, Place, Problem
from ephemeroot.errors import Damaged
from ephemeroot.machine import fstab
from ephemeroot.machine.facts import Machine
from ephemeroot.machine.root import Root


@dataclass(slots=True)
class StoreRefusals:
    """The checks of one configuration on one machine, with its *root*."""

    config: Configuration
    machine: Machine
    volumes: Sequence[Volume]
    problems: list[Problem]
    root: Root

    def check(self) -> None:
        """Note all errors."""
        for store in self.config.stores:
            self._check_store(store)
        histories.check(self._histories(), self._report)
        for wiped in self._histories():
            for old, beside in (("old-roots", "the subvolume"), ("old-bases", "base")):
                self._check_one_subvolume(wiped, old, beside)

    def _check_store(self, store: StoreEntry) -> None:
        place = store.origin.place
        if store.path == "/":
            self._add(place, "/ cannot be a store", "name a directory on a volume")
            return
        volume = volumes.covering(store.path, self.volumes)
        if volume is None:
            self._refuse_store_on_root(store)
        elif volume.wipe is not None:
            reason = f"the store {store.path} is on {volume.mount_point}, which every boot wipes"
            self._add(place, reason, "move it to a persistent volume")
        elif volume.is_volatile:
            reason = f"the store {store.path} is on {volume.mount_point}, a {volume.type}"
            self._add(place, f"{reason}: no file on it persists", "move it to a volume on a disk")
        elif volume.is_ownerless:
            reason = f"the store {store.path} is on {volume.mount_point}, a {volume.type}"
            reason += ", which stores neither owners nor modes"
            self._add(place, reason, "move it to another filesystem; from a server, use nfs4")
        elif not volume.needed_for_boot:
            reason = f"the store {store.path} is on {volume.mount_point}, which is not mounted"
            self._add(place, f"{reason} in the initramfs", volume.how_to_need())
        elif "ro" in volume.options:
            reason = f"the store {store.path} is on {volume.mount_point}, which is read-only"
            self._add(place, f"{reason}: it cannot store files", 'remove "ro"')
        else:
            self._check_dataset(store, volume)
            self._check_location(store, volume)
            self._check_marker(store)

    def _check_dataset(self, store: StoreEntry, volume: Volume) -> None:
        if volume.type != "zfs" or not self.machine.live:
            return
        from ephemeroot.config import datasets

        try:
            datasets.require_writable(volume.device)
        except Mistake as mistake:
            reason = f"cannot write to the store {store.path}: {mistake.reason}"
            self._add(store.origin.place, reason, mistake.hint)

    def _refuse_store_on_root(self, store: StoreEntry) -> None:
        if not self.config.complete:
            return
        if any(clean.is_below(store.path, own) for own in volumes.KERNELS_OWN):
            reason = f"the store {store.path} is where every boot mounts a new filesystem"
        else:
            reason = f"the store {store.path} is on the root, which every boot wipes"
        self._add(
            store.origin.place,
            reason,
            f'mount a volume there: [[volumes]] with mount-point = "{store.path}", or a line in '
            f"/etc/fstab with {fstab.INITRD}",
        )

    def _check_location(self, store: StoreEntry, volume: Volume) -> None:
        """The store must not be inside a wiped subvolume, and must not contain one."""
        inside = volume.inside(store.path)
        for wiping, device, subvolume, what in self._wiped():
            self._check_taken(store, volume, wiping, what)
            self._check_occupied(store, wiping, what)
            if wiping.plugin is None or not subvolume:
                continue
            if volume.type != wiping.plugin.wiper.SUBVOLUMES_OF:
                continue
            if device is not None and not volumes.same_device(device, volume.device):
                continue
            forbidden = {f"the subvolume {subvolume} of {what}": subvolume}
            for name, path in wiping.plugin.paths(wiping.settings).items():
                forbidden[f"{name} ({path}) of {what}"] = path
            for name, written in forbidden.items():
                path = written.strip("/")
                if clean.is_below(inside, path):
                    self._add(
                        store.origin.place,
                        f"the store {store.path} is inside {name}",
                        f"move it to a separate subvolume, outside {path}",
                    )
                elif inside and clean.is_below(path, inside):
                    self._add(
                        store.origin.place,
                        f"{name} is inside the store {store.path} ({inside})",
                        f"name a path outside the subvolume {volume.subvolume or inside}",
                    )

    def _check_one_subvolume(self, wiped: histories.Wiped, old: str, beside: str) -> None:
        """Old roots are renamed, which works only inside one subvolume."""
        paths = wiped.paths()
        if old not in paths or beside not in paths:
            return
        known = [
            volume.subvolume
            for volume in self.volumes
            if volume.type == wiped.subvolumes_of
            and volume.subvolume
            and (not wiped.device or volumes.same_device(wiped.device, volume.device))
        ]
        holders = [
            max((one for one in known if clean.is_below(path, one)), key=len, default="")
            for path in (paths[old], paths[beside].rpartition("/")[0])
        ]
        if holders[0] != holders[1]:
            self._add(
                wiped.wiping.origin.of(old),
                f"{old} ({paths[old]}) is not in the same subvolume as {paths[beside]}: each boot "
                "refuses it, unless it is a subvolume",
                f"name a path in the same directory as {paths[beside]}",
                warning=True,
            )

    def _check_occupied(self, store: StoreEntry, wiping: Wiping, what: str) -> None:
        if wiping.plugin is None:
            return
        for path in wiping.plugin.wiper.occupies(dict(wiping.settings)):
            if clean.is_below(store.path, path):
                self._add(
                    store.origin.place,
                    f"the store {store.path} is inside {path}, which the wiper of {what} uses",
                    "name a directory outside it",
                )

    def _check_taken(self, store: StoreEntry, volume: Volume, wiping: Wiping, what: str) -> None:
        """Errors that only the wiper can find."""
        root = self.root.argument if what == "the root" else ""
        if wiping.plugin is not None and not wiping.plugin.wiper.ON_DEVICE:
            reason = wiping.plugin.wiper.takes(dict(wiping.settings), root, volume.device)
            if reason:
                self._add(
                    store.origin.place,
                    f"the store {store.path} would be lost with {what}: {reason}",
                    "name another device for its volume",
                )

    def _wiped(self) -> list[tuple[Wiping, str | None, str | None, str]]:
        found: list[tuple[Wiping, str | None, str | None, str]] = []
        if self.config.wiping is not None:
            found.append((self.config.wiping, self.root.device, self.root.subvolume, "the root"))
        for volume in self.volumes:
            if volume.wipe is not None:
                wiping = volume.wipe
                found.append((wiping, volume.device, wiping.subvolume, volume.mount_point))
        return found

    def _histories(self) -> list[histories.Wiped]:
        found = [histories.Wiped(*wiped) for wiped in self._wiped()]
        return [one for one in found if one.subvolumes_of]

    def _report(self, wiped: histories.Wiped, reason: str, hint: str) -> None:
        self._add(wiped.wiping.origin.place, reason, hint)

    def _check_marker(self, store: StoreEntry) -> None:
        place = store.origin.place
        try:
            identity = self.machine.store_id(store.path)
        except Damaged as error:
            self._add(
                place,
                error.message,
                "restore it from a backup, or remove it and run 'ephemeroot apply'",
            )
            return
        if identity is None and not self.machine.another:
            self.problems.append(no_marker(place, store.path))

    def _add(self, place: Place, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.problems.append(Problem.at(place, reason, hint, warning=warning))


_NO_MARKER = "run 'ephemeroot apply' to write it"


def no_marker(place: Place, store: str) -> Problem:
    """The warning that *store* has no marker."""
    return Problem.at(place, f"the store {store} has no marker", _NO_MARKER, warning=True)


def is_about_no_marker(problem: Problem) -> bool:
    """Whether *problem* is that warning."""
    return problem.warning and problem.hint == _NO_MARKER
