"""Volumes needed for boot and the stores on them: mounted once, privately, before the wipe.

A wipe without its store is a machine without data. So each volume is mounted below
``/run/ephemeroot/volumes`` first (by the initramfs's own mount units, or by Ephemeroot), every
store proves that it is the one that was declared, and only then anything is wiped.
After the wipe the same mounts are attached under the new root.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, Refused, StoreMissing
from ephemeroot.hooks import records, tree
from ephemeroot.hooks.guards import ownership, waiting
from ephemeroot.hooks.operation import Operation, field
from ephemeroot.hooks.operations import network
from ephemeroot.linux import dataset_keys, devices, mountinfo, mounts, paths, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

SUBDIRECTORY = "X-mount.subdir="
"""mount(8)'s option for a directory of the filesystem instead of all of it."""

_DEGRADED = (
    "connect the missing device; to boot without it, add degraded to rootflags= on the kernel "
    "command line"
)

# Devices whose mounts mountinfo gives no number of, only the source's name.
_NOWHERE = frozenset(("tmpfs", "zfs", "overlay", "9p", "virtiofs"))


class MountVolume(Operation):
    """Mount ``device`` privately; ``name`` is its directory below the run directory."""

    KIND = "volume"
    mount_point: str = field("absolute path", "where the new root has it")
    name: str = field("name", "its directory under the run directory")
    device: str = field("text", "the device or share, as mount(8) takes it")
    type: str = field("text", "the filesystem's type")
    options: list[str] = field("strings", "mount options", default=[])
    timeout: int = field("seconds", "how long to wait for the device; 0: no end", default=90)

    def describe(self) -> str:
        shown = [f"{o.partition('=')[0]}=***" if mounts.is_secret(o) else o for o in self.options]
        options = f" ({','.join(shown)})" if shown else ""
        return f"mount {self.type} {self.device}{options} privately, for {self.mount_point}"

    def execute(self, stage: Stage) -> str:
        """Raises ``StoreMissing`` if the device is missing or is something else."""
        point = stage.volume(self.name)
        mounted = mountinfo.mounted_at(point)
        if mounted is not None:
            self._require_same(mounted)
            return "already mounted"
        if self.type in network.TYPES:
            os.makedirs(point, 0o700, exist_ok=True)
            network.mount(self.type, self.device, self.options, point, self.timeout)
            return "mounted"
        source = self._source(stage)
        if stage.check and self.type not in _NOWHERE:
            from ephemeroot.hooks.guards import fsck  # with systemd, units check

            fsck.require_sound(self.type, source)
        os.makedirs(point, 0o700, exist_ok=True)
        if self.type == "zfs":
            self._mount_dataset(point)
            return "mounted"
        options = self.options
        if self.type == "btrfs":
            options = [*options, *_filesystem_wide(stage, source)]
        try:
            mount = self._create(source, options)
        except OSError as error:
            lacks = devices.missing_members(source) if self.type == "btrfs" else ""
            raise StoreMissing(
                f"cannot mount {self.device} ({self.type}) for {self.mount_point}: "
                f"{lacks or error.strerror}",
                _DEGRADED if lacks else "look for the reason in the kernel log ('dmesg')",
            ) from error
        mounts.attach_at(mount, point)
        if self.directory:
            self._take_directory(point)
        return "mounted"

    def _create(self, source: str, options: list[str]) -> int:
        """A detached mount. The root's own filesystem may be mounted read-only so far, if the root
        is kept; the stage makes it writable, and with it this mount.
        """
        try:
            return mounts.create(self.type, source, options)
        except OSError as error:
            if error.errno != errno.EBUSY or not self.directory or "ro" in options:
                raise
        mount = mounts.create(self.type, source, [*options, "ro"])
        mounts.set_flags(mount, clear=mounts.MOUNT_ATTR_RDONLY, name=self.mount_point)
        return mount

    def release(self, stage: Stage) -> None:
        """After the wipe stage, unmount a directory's filesystem again if the root is still to be
        mounted by the distribution: it may be the same one, which is refused read-only while it is
        writable.
        """
        point = stage.volume(self.name)
        if self.directory and not stage.is_mounted(stage.target) and stage.is_mounted(point):
            mounts.detach(point)

    @property
    def directory(self) -> str:
        """The directory of the filesystem that is the volume; empty for all of it."""
        found = [o for o in self.options if o.startswith(SUBDIRECTORY)]
        return found[-1].partition("=")[2].strip("/") if found else ""

    @property
    def inside(self) -> str:
        """What of the filesystem is mounted, if subvolume or directory are given; else empty."""
        subvolumes = [o.partition("=")[2].strip("/") for o in self.options if o[:7] == "subvol="]
        return "/".join(part for part in (*subvolumes[-1:], self.directory) if part)

    def _take_directory(self, point: str) -> None:
        """Mount the directory instead of the filesystem at *point*, which is attached: kernels
        before 6.15 clone no detached mount (open_tree(2), EINVAL).
        """
        top = os.open(point, tree.DIRECTORY | os.O_CLOEXEC)
        try:
            directory = paths.open_beneath(top, self.directory, tree.DIRECTORY)
            try:
                mount = mounts.clone(directory, name=self.mount_point)
            finally:
                os.close(directory)
        except OSError as error:
            mounts.detach(point)
            raise StoreMissing(
                f"cannot mount the directory {self.directory} of {self.device} for "
                f"{self.mount_point}: {error.strerror}",
                "boot with ephemeroot=no, and create that directory",
            ) from error
        finally:
            os.close(top)
        mounts.detach(point)
        mounts.attach_at(mount, point)

    def _mount_dataset(self, point: str) -> None:
        """By ZFS's own helper: what the dataset's properties say of its mount is its business."""
        words = ["-o", ",".join(self.options)] if self.options else []
        try:
            dataset_keys.load(self.device)
            programs.run("mount.zfs", *words, self.device, point)
        except EphemerootError as error:
            raise StoreMissing(
                f"cannot mount {self.device} (zfs) for {self.mount_point}: {error.message}",
                error.hint
                or f"see 'zfs get keystatus,mountpoint {self.device}': the pool must be imported "
                "and the key loaded; a mountpoint other than legacy needs the option zfsutil",
            ) from None

    def require_single(self) -> None:
        """Raise ``StoreMissing`` if several devices have the volume's name.

        For one that a unit has mounted already: which of them that was is chance.
        """
        if self.type in _NOWHERE or self.type in network.TYPES:
            return
        try:
            waiting.require_single(self.device, self._purpose)
        except Refused as error:
            raise StoreMissing(error.message, error.hint) from error

    def _source(self, stage: Stage) -> str:
        if self.type in _NOWHERE:
            return self.device
        try:
            device = waiting.device(stage, self.device, self.timeout, self._purpose)
            return devices.canonical(device)
        except Refused as error:
            raise StoreMissing(error.message, error.hint) from error

    @property
    def _purpose(self) -> str:
        return f"the device {self.device} of {self.mount_point}"

    def _require_same(self, mounted: mountinfo.Mount) -> None:
        """A volume that another program mounted must be the declared one."""
        if mounted.fstype != self.type:
            raise StoreMissing(
                f"the volume of {self.mount_point} is mounted as {mounted.fstype}, but {self.type} "
                "is declared"
            )
        if mounted.fstype == "zfs" and mounted.source != self.device:
            raise StoreMissing(
                f"the volume of {self.mount_point} is the dataset {mounted.source}, but "
                f"{self.device} is declared"
            )
        wanted = self.inside
        if wanted and mounted.root.strip("/") != wanted:
            kind = "directory" if self.directory else "subvolume"
            raise StoreMissing(
                f"the volume of {self.mount_point} is the {kind} {mounted.root}, but {wanted} is "
                "declared"
            )


class Store(Operation):
    """Require that ``below`` in ``volume`` is the store with the marker ``id``."""

    KIND = "store"
    path: str = field("absolute path", "the store, as the new root has it")
    volume: str = field("name", "the volume that it is on")
    below: str = field("path", "where it is on the volume", default="")
    id: str = field("text", "what its marker says")

    def describe(self) -> str:
        return f"require that {self.path} is the store {self.id}"

    def execute(self, stage: Stage) -> str:
        """Raises ``StoreMissing`` unless the volume has the marker of this store."""
        volume = os.open(stage.volume(self.volume), tree.DIRECTORY | os.O_CLOEXEC)
        try:
            fd = paths.open_beneath(volume, self.below, tree.DIRECTORY)
        except OSError as error:
            raise StoreMissing(
                f"the store {self.path} is not on its volume: {error.strerror}",
                "boot with ephemeroot=no and run 'ephemeroot check'",
            ) from error
        finally:
            os.close(volume)
        try:
            found = records.read_marker(fd, self.path)
        except BaseException:
            os.close(fd)
            raise
        if found != self.id:
            os.close(fd)
            raise StoreMissing(
                f"another store is mounted for {self.path} (id {found}, but {self.id} is declared)"
            )
        stage.add_store(self.path, fd)
        return "present"


class Attach(Operation):
    """Attach the private mount of ``volume`` at ``mount_point`` under the new root."""

    KIND = "attach"
    mount_point: str = field("absolute path", "where the new root gets it")
    volume: str = field("name", "the volume, by its private directory")

    def describe(self) -> str:
        return f"attach the volume {self.mount_point}"

    def execute(self, stage: Stage) -> str:
        """A copy of the mount is attached: the kernel refuses to *move* a mount out of a
        shared parent (move_mount(2), EINVAL), and systemd makes everything shared. The
        private one goes away when the stage is done.
        """
        parent, name = tree.open_parent(stage.root(), self._place(stage))
        try:
            if tree.is_mount_point(parent, name):
                return "already attached"
            target = paths.open_beneath(parent, name, tree.DIRECTORY)
        finally:
            os.close(parent)
        source = os.open(stage.volume(self.volume), tree.DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.bind(source, target, name=self.mount_point)
        finally:
            os.close(source)
            os.close(target)
        return "attached"

    def _place(self, stage: Stage) -> str:
        """Where the mount point is in the new root; it and what leads there is made if a fresh
        root does not have it.
        """
        place = ""
        for component in self.mount_point.strip("/").split("/"):
            place = tree.resolve(stage.root(), f"{place}/{component}")
            parent, name = tree.open_parent(stage.root(), place)
            try:
                if not tree.exists(parent, name):
                    tree.make_directory(parent, name, 0, 0, 0o755)
            finally:
                os.close(parent)
        return place


def _filesystem_wide(stage: Stage, source: str) -> list[str]:
    """The options that a mount of the device *source* needs because the root's mount has them;
    none if the root is on another filesystem. A filesystem of several devices that lacks one is
    mounted with ``degraded``, or not at all: the store on it, too. The administrator adds that word
    to ``rootflags=`` for the root alone.
    """
    options = devices.btrfs_wide(stage.cmdline.root_flags())
    asked = ownership.booted_device(stage.cmdline)
    if not options or asked is None:
        return []
    try:
        root = devices.btrfs_uuid(os.path.realpath(devices.link(asked)))
        return options if root is not None and root == devices.btrfs_uuid(source) else []
    except (OSError, ValueError):
        return []
