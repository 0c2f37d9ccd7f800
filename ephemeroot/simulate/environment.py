"""The environment of a simulated boot: a run directory in memory, and read-only volumes.

A volume with a store gets an overlay with an upper layer in memory, so that the stages can write as
in a real boot, and the changes are discarded.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import StoreMissing
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.volumes import MountVolume, Store
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.records import MARKER, NO_MARKER
from ephemeroot.hooks.store import request
from ephemeroot.linux import devices, mountinfo, mounts

GENERATION = 1 << 40
"""Newer than any generation in a store, so that the simulated image is the newest."""


@dataclass(slots=True)
class Environment:
    """``folder`` is an empty directory, on which a filesystem in memory is mounted. ``root`` is the
    machine's root; ``notes`` are the differences from a real boot.
    """

    folder: Path
    root: Path
    notes: list[str]

    @property
    def run(self) -> Path:
        """The run directory of the simulated boot."""
        return self.folder / "run/ephemeroot"

    @property
    def private(self) -> Path:
        """An empty directory for temporary data."""
        return self.folder / "private"

    @property
    def target(self) -> Path:
        """The mount point of the simulated root."""
        return self.folder / "sysroot"

    def set_up(self) -> None:
        """Mount the memory and make the directories."""
        mounts.attach_at(mounts.create("tmpfs", "tmpfs", ["mode=0700"]), str(self.folder))
        for folder in (self.run, self.private, self.target):
            folder.mkdir(parents=True)

    def volumes(self, plan: Plan) -> list[Operation]:
        """Mount the volumes that *plan* mounts before the wipe, and return its operations, changed
        to use these mounts. Raises ``StoreMissing`` as a boot would.
        """
        with_store = {store.volume for store in plan.stores()}
        fresh = {wipe.target for wipe in plan.wipes()}
        found: list[Operation] = []
        for operation in plan.wipe:
            if isinstance(operation, MountVolume):
                found.append(self._volume(operation, layered=operation.name in with_store
                                          or operation.mount_point in fresh))  # fmt: skip
            elif isinstance(operation, Store):
                found.append(self._store(operation))
        return found

    def _volume(self, volume: MountVolume, *, layered: bool) -> MountVolume:
        point = self.run / "volumes" / volume.name
        point.mkdir(parents=True)
        below = self._mount_read_only(volume)
        if not layered:
            mounts.attach_at(below, str(point))
            return volume.changed(options=[])
        lower = self.folder / "lower" / volume.name
        upper, work = (self.folder / kind / volume.name for kind in ("upper", "work"))
        for folder in (lower, upper, work):
            folder.mkdir(parents=True)
        mounts.attach_at(below, str(lower))
        status = lower.stat()  # the overlay's own directory is the upper one
        os.chown(upper, status.st_uid, status.st_gid)
        upper.chmod(stat.S_IMODE(status.st_mode))
        layers = [f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}"]
        mounts.attach_at(mounts.create("overlay", "overlay", layers), str(point))
        return volume.changed(type="overlay", options=[])

    def _mount_read_only(self, volume: MountVolume) -> int:
        """A read-only mount of the volume: a copy of its present mount, else a new mount."""
        live = os.path.realpath(self.root / volume.mount_point.lstrip("/"))
        present = mountinfo.mounted_at(live)
        wanted = (volume.type, volume.inside or None)
        if present is not None:
            found = present.root.strip("/") if volume.inside else None
            if (present.fstype, found) != wanted:
                declared = f"{volume.type} {volume.inside}".rstrip()
                raise StoreMissing(
                    f"{present.fstype} {present.root} is mounted at {volume.mount_point}, but "
                    f"{declared} is declared",
                    f"run 'umount {live}' and mount the declared filesystem, as the boot does",
                )
            return mounts.clone_at(live, read_only=True)
        if volume.directory:
            if not os.path.isdir(live):
                raise StoreMissing(
                    f"the directory {volume.mount_point} is missing", f"run 'mkdir {live}'"
                )
            return mounts.clone_at(live, read_only=True)
        mount = self._new_mount(volume)
        mounts.set_flags(mount, set_=mounts.MOUNT_ATTR_RDONLY, private=True, name=live)
        return mount

    def _new_mount(self, volume: MountVolume) -> int:
        try:
            source = devices.link(volume.device)
        except ValueError:
            source = volume.device
        if source.startswith("/dev/") and not os.path.exists(source):
            raise StoreMissing(
                f"the device {volume.device} of {volume.mount_point} is missing",
                "attach the device, or correct the declaration of the volume",
            )
        options = [o for o in volume.options if o not in ("rw", "ro")]
        in_use = {os.path.realpath(m.source) for m in mountinfo.mounts() if m.source[:1] == "/"}
        if os.path.realpath(source) not in in_use:
            options.append("ro")  # the filesystem's own metadata must not change either
        try:
            return mounts.create(volume.type, source, options)
        except OSError as error:
            raise StoreMissing(
                f"cannot mount {volume.device} ({volume.type}) for {volume.mount_point}: "
                f"{error.strerror}",
                "check type and options of the volume, see 'dmesg' for details",
            ) from error

    def _store(self, store: Store) -> Store:
        """Prepare the store in its layer: write a missing marker, remove a request."""
        place = self.run / "volumes" / store.volume / store.below
        if not place.is_dir():
            raise StoreMissing(
                f"the store {store.path} is missing on its volume", f"run 'mkdir {store.path}'"
            )
        identity = store.id
        if identity == NO_MARKER:
            identity = str(uuid.uuid4())
            content = json.dumps({"version": 1, "id": identity, "path": store.path})
            (place / MARKER).write_text(content)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if request.remove(fd):
                self.notes.append(
                    "the request for the next boot ('ephemeroot next-boot') is not simulated"
                )
        finally:
            os.close(fd)
        return Store(path=store.path, volume=store.volume, below=store.below, id=identity)
