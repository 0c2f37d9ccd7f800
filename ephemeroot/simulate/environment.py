"""Where a boot is simulated: a run directory in memory, volumes that nothing can write to.

Each volume is mounted read-only; above one with a store lies a layer in memory, so that the stages
can write what they would write, and it is gone afterwards.
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
"""Newer than any that a store has recorded: the rehearsed image is the newest."""


@dataclass(slots=True)
class Environment:
    """``folder`` is an empty directory, which gets a filesystem in memory. ``root`` is the
    machine's; ``notes`` says what is done otherwise than at boot.
    """

    folder: Path
    root: Path
    notes: list[str]

    @property
    def run(self) -> Path:
        """The run directory of the rehearsed boot."""
        return self.folder / "run/ephemeroot"

    @property
    def private(self) -> Path:
        """An empty directory for what is thrown away."""
        return self.folder / "private"

    @property
    def target(self) -> Path:
        """Where the rehearsed root is mounted."""
        return self.folder / "sysroot"

    def set_up(self) -> None:
        """Mount the memory and make the directories."""
        mounts.attach_at(mounts.create("tmpfs", "tmpfs", ["mode=0700"]), str(self.folder))
        for folder in (self.run, self.private, self.target):
            folder.mkdir(parents=True)

    def volumes(self, plan: Plan) -> list[Operation]:
        """Mount what *plan* mounts before the wipe, and return its operations changed so that
        they find it. Raises ``StoreMissing`` as the boot would.
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
        """A mount of the volume that cannot be written to: a copy of the one that is there,
        else a new one.
        """
        live = os.path.realpath(self.root / volume.mount_point.lstrip("/"))
        there = mountinfo.mounted_at(live)
        wanted = (volume.type, volume.inside or None)
        if there is not None:
            found = there.root.strip("/") if volume.inside else None
            if (there.fstype, found) != wanted:
                raise StoreMissing(
                    f"{volume.mount_point} is mounted as {there.fstype} {there.root}, but "
                    f"{volume.type} is declared {volume.inside}".rstrip(),
                    "the boot mounts the declared filesystem",
                )
            return mounts.clone_at(live, read_only=True)
        if volume.directory:
            if not os.path.isdir(live):
                raise StoreMissing(f"{volume.mount_point} is missing", f"mkdir {live}")
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
            raise StoreMissing(f"the device {volume.device} of {volume.mount_point} is missing")
        options = [o for o in volume.options if o not in ("rw", "ro")]
        in_use = {os.path.realpath(m.source) for m in mountinfo.mounts() if m.source[:1] == "/"}
        if os.path.realpath(source) not in in_use:
            options.append("ro")  # not even the filesystem itself is to change
        try:
            return mounts.create(volume.type, source, options)
        except OSError as error:
            raise StoreMissing(
                f"cannot mount {volume.device} ({volume.type}) for {volume.mount_point}: "
                f"{error.strerror}"
            ) from error

    def _store(self, store: Store) -> Store:
        """The store, in its layer: one without a marker gets one there, a request goes."""
        place = self.run / "volumes" / store.volume / store.below
        if not place.is_dir():
            raise StoreMissing(
                f"the store {store.path} is not on its volume", f"mkdir {store.path}"
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
                    "the request for the next boot ('ephemeroot next-boot') is not rehearsed"
                )
        finally:
            os.close(fd)
        return Store(path=store.path, volume=store.volume, below=store.below, id=identity)
