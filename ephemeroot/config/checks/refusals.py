"""Errors with which the machine could not boot, found before an image is built (docs/design.md)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ephemeroot.config import volumes
from ephemeroot.config.checks.store_refusals import StoreRefusals
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, Volume, Wiping
from ephemeroot.config.resolution import Roots
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.operations.volumes import SUBDIRECTORY
from ephemeroot.machine import facts, fstab
from ephemeroot.machine.facts import Machine
from ephemeroot.machine.root import Root, fstab_lines
from ephemeroot.wipers.contract import Wiper


@dataclass(slots=True)
class Refusals:
    """The checks of one configuration on one machine; paths are looked up in *roots*."""

    config: Configuration
    machine: Machine
    volumes: Sequence[Volume]
    declared: Sequence[Declared]
    problems: list[Problem]
    roots: Roots
    root: Root = field(init=False)

    def __post_init__(self) -> None:
        wiping = self.config.wiping
        configured = (wiping.device, wiping.subvolume) if wiping is not None else (None, None)
        self.root = Root.named(self.machine, *configured)

    def check(self) -> None:
        """Note all errors."""
        StoreRefusals(self.config, self.machine, self.volumes, self.problems, self.root).check()
        self._check_directories()
        wiping = self.config.wiping
        if wiping is None:
            return
        self._check_root(wiping)
        self._check_boot_files(wiping)
        if wiping.plugin is not None and self.config.complete:
            usr = next((v for v in self.volumes if v.mount_point == "/usr"), None)
            if wiping.plugin.starts_empty(wiping.settings) and not (usr and usr.needed_for_boot):
                self._refuse_empty_root(wiping, usr)
            else:
                self._check_package_databases()

    # The root

    def _check_root(self, wiping: Wiping) -> None:
        if wiping.plugin is None:
            return
        self._check_layers()
        self._check_wipers_volumes(wiping, wiping.plugin.volumes(wiping.settings))
        if not wiping.plugin.wiper.ON_DEVICE:
            self._check_match(wiping, wiping.plugin.wiper)
            return
        self._require_device(wiping)
        by_id = False
        hint = "name it by subvol=, because a new root has another id at each boot"
        for file, text in self.machine.command_lines:
            flags = facts.command_line(text).root_flags()
            if fstab.option(flags, "subvolid") is not None:
                by_id = True
                self._add(Place(file, "rootflags"), "rootflags= names the root by subvolid=", hint)
        for line in fstab_lines(self.machine):
            if line.option("subvolid") is not None:
                by_id = True
                self._add(self._fstab(line), "fstab names the root by subvolid=", hint)
        if wiping.plugin.wiper.SUBVOLUMES_OF:
            if not by_id:
                self._require_subvolume(wiping)
            self._check_agreement(wiping)
        if self.root.subvolume:
            volumes.check_inside(
                wiping, self.root.subvolume, lambda reason, hint: self._add(
                    wiping.origin.place, reason, hint)
            )  # fmt: skip

    def _check_layers(self) -> None:
        """A boot in which another program chooses the root wipes nothing. This is a warning: the
        command line may change before the next boot. With ostree it is an error.
        """
        for file, text in self.machine.command_lines:
            word = ownership.layer(facts.command_line(text))
            if word:
                self._add(
                    Place(file, word.partition("=")[0]),
                    f"with {word} another program chooses the root, and the boot neither wipes nor "
                    "binds",
                    f"remove {word} from the kernel command line",
                    warning=not word.startswith("ostree="),
                )

    def _check_wipers_volumes(self, wiping: Wiping, settings: dict[str, str]) -> None:
        """A volume that the wiper uses must be persistent, and mounted before the wiper runs."""
        for key, point in settings.items():
            place = wiping.origin.of(key)
            volume = next((v for v in self.volumes if v.mount_point == point), None)
            if volume is None:
                if self.config.complete:
                    self._add(place, f"{point} is not a volume", "declare it with [[volumes]]")
            elif not volume.persists:
                reason = f"cannot keep layers on {point}: it is not persistent"
                self._add(place, reason, "name another volume")
            elif "ro" in volume.options:
                reason = f"cannot keep layers on {point}: it is read-only"
                self._add(place, reason, 'remove "ro", or name another volume')
            elif not volume.needed_for_boot:
                self._add(place, f"{point} is not needed for boot", volume.how_to_need())

    def _check_match(self, wiping: Wiping, wiper: type[Wiper]) -> None:
        """A mismatch is a warning, because the command line may change before the next boot."""
        settings = dict(wiping.settings)
        known = {(one.key, one.reason) for one in wiper.validate(settings)}
        for file, text in self.machine.command_lines:
            root = facts.command_line(text).get("root")
            for one in wiper.validate(wiper.completed(settings, root)):
                if (one.key, one.reason) not in known:
                    known.add((one.key, one.reason))
                    place = (
                        wiping.origin.of(one.key) if one.key in settings else Place(file, "root")
                    )
                    self._add(place, one.reason, one.hint)
            reason = wiper.mismatch(settings, root)
            if root is not None and reason:
                self._add(
                    Place(file, "root"),
                    f"root={root} does not match: {reason}",
                    "change root= before the next boot; otherwise it wipes nothing",
                    warning=True,
                )

    def _require_device(self, wiping: Wiping) -> None:
        """With discoverable partitions, the configuration must name the device of the root."""
        for file, text in self.machine.command_lines:
            line = facts.command_line(text)
            if wiping.device is None and line.root_device() is None:
                self._add(
                    Place(file, "root"),
                    "root= does not name the device of the root",
                    f"set device in [root.{wiping.wiper}], or add root= to the command line",
                )

    def _require_subvolume(self, wiping: Wiping) -> None:
        """The root must be mounted by the name of its subvolume, which the new root gets."""
        hint = "add subvol=NAME of the root"
        for file, text in self.machine.command_lines:
            flags = facts.command_line(text).root_flags()
            if not (fstab.option(flags, "subvol") or "").strip("/"):
                self._add(
                    Place(file, "rootflags"),
                    "the root is mounted without subvol=",
                    f"{hint} to rootflags= on the kernel command line",
                )
        if self.machine.command_lines:
            return
        for line in fstab_lines(self.machine):
            if not (line.option("subvol") or "").strip("/"):
                reason = "the root is mounted without subvol="
                self._add(self._fstab(line), reason, f"{hint} to its options")
        if not fstab_lines(self.machine):
            self._add(
                wiping.origin.place,
                "cannot find the mount options of the root",
                "boot it with root= and rootflags=subvol=NAME",
                warning=True,
            )

    def _check_agreement(self, wiping: Wiping) -> None:
        """A configured root that differs from the kernel command line would not be wiped."""
        for file, text in self.machine.command_lines:
            line = facts.command_line(text)
            flag = (fstab.option(line.root_flags(), "subvol") or "").strip("/")
            if wiping.subvolume and flag and flag != wiping.subvolume:
                self._add(
                    wiping.origin.of("subvolume"),
                    f"{file} boots the subvolume {flag}, not {wiping.subvolume}",
                    "make both the same, or remove subvolume",
                )
            device = line.root_device()
            if wiping.device and device and not volumes.same_device(wiping.device, device):
                self._add(
                    wiping.origin.of("device"),
                    f"{file} boots {device}, not {wiping.device}",
                    "make both the same, or remove device",
                    # The same device may have two names that cannot be compared here.
                    warning=self.machine.root != "/",
                )

    def _refuse_empty_root(self, wiping: Wiping, usr: Volume | None) -> None:
        hint = "add a volume for /usr"
        if "base" in wiping.settings:
            hint += ", or set base"
        if usr is not None:
            hint = usr.how_to_need()
        self._add(
            wiping.origin.place,
            "the new root cannot boot: it is empty, and /usr is not a volume needed for boot",
            hint,
        )

    def _check_boot_files(self, wiping: Wiping) -> None:
        if self.config.external_boot or not self.config.complete:
            return
        lost = [path for path in self.machine.boot_files if self._is_on_root(path)]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            hint = (
                "mount /boot from a separate partition (/etc/fstab), or set external-boot = true "
                "in [root] if this machine boots from elsewhere"
            )
            if wiping.plugin is not None and wiping.plugin.wiper.MOUNTS_ROOT:
                top = lost[0].split("/")[1]
                hint = (
                    f'declare the directory as a volume: [[volumes]] with mount-point = "/{top}", '
                    f'the device of the root and options = ["{SUBDIRECTORY}{top}"]'
                )
            self._add(
                wiping.origin.place,
                f"the kernel, initramfs or boot loader is on the wiped root: {lost[0]}{more}",
                hint,
            )

    def _is_on_root(self, path: str) -> bool:
        mounts = [p for p in self.machine.mounted if p != "/" and clean.is_below(path, p)]
        return not mounts and self._keeper(path)[0] is None

    def _check_directories(self) -> None:
        """A volume that is a directory of the root's filesystem must exist; else the boot stops."""
        if self.machine.another or not self.root.device:
            return
        for volume in self.volumes:
            if not (volume.directory and volume.needed_for_boot) or volume.subvolume:
                continue
            # With a layer above the root, the directory is mounted at the same path.
            place = self.machine.show(f"/{volume.directory}")
            if not volumes.same_device(self.root.device, volume.device) or os.path.isdir(place):
                continue
            self._add(
                volume.place,
                f"cannot mount {volume.mount_point}: the directory {place} of {volume.device} is "
                "missing",
                f"run 'mkdir -p {place}'",
            )

    # Persistence of a path

    def _keeper(self, path: str) -> tuple[Place | None, bool]:
        """The place of the declaration or volume by which *path* persists, or ``None``; and whether
        it is read-only.
        """
        volume = volumes.covering(path, self.volumes)
        depth = -1
        place: Place | None = None
        if volume is not None:
            depth = len(clean.components(volume.mount_point))
            place = volume.place if volume.persists else None
        for entry in self.declared:
            above = clean.is_below(path, entry.path) and (entry.is_directory or path == entry.path)
            if above and len(clean.components(entry.path)) >= depth:
                depth = len(clean.components(entry.path))
                place = entry.place
        read_only = volume is not None and place == volume.place and "ro" in volume.options
        return place, read_only

    def _check_package_databases(self) -> None:
        usr, read_only = self._keeper("/usr")
        databases = {self._database(path): path for path in facts.PACKAGE_DATABASES}
        for path, written in databases.items():
            named = [d.place for d in self.declared if clean.is_below(d.path, path)]
            if written not in self.machine.package_databases and not named:
                continue
            database = named[0] if named else self._keeper(path)[0]
            if database is None and usr is None:
                self._warn_of_empty_database(path, written)
            elif database is not None and usr is None:
                self._add(
                    database,
                    f"the package database {path} persists, but /usr comes from the base",
                    "keep both together: remove it from the declared directories, or make /usr a "
                    "volume",
                )
            elif database is None and usr is not None:
                self._add(
                    usr,
                    f"/usr persists, but the package database {path} does not",
                    f"keep both together: declare {path}",
                    warning=read_only,  # no package can be installed there
                )

    def _warn_of_empty_database(self, path: str, written: str) -> None:
        """This is a warning, because it is harmless on a machine whose packages never change."""
        over = volumes.covering(written, self.volumes)
        if over is not None and volumes.begins_empty(written, self.volumes, None):
            self._add(
                over.place,
                f"the package database {path} is on {over.mount_point}, which is empty after each "
                "boot, but /usr comes from the base",
                "keep both together: make the directory a part of the base",
                warning=True,
            )

    def _database(self, path: str) -> str:
        """The path of the database in the next root: Fedora and openSUSE have a link at
        /var/lib/rpm.
        """
        if self.machine.another:
            return path
        # A filesystem that is mounted after the wipe is not in the base: read the link in the live
        # root.
        volume = volumes.covering(path, self.volumes)
        later = volume is not None and not volume.needed_for_boot
        return self.roots.resolve(path, follow_last=True, live=later)

    def _fstab(self, line: fstab.FstabLine) -> Place:
        return Place(self.machine.show("/etc/fstab"), line.mount_point, line.number)

    def _add(self, place: Place, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.problems.append(Problem.at(place, reason, hint, warning=warning))
