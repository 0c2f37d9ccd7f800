"""What systemd reads in the initramfs: our units, their links, and what waits for volumes."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.errors import Damaged
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import data
from ephemeroot.image.tree import Tree
from ephemeroot.linux.devices import link
from ephemeroot.linux.units import escape_path

SYSTEMD = "systemd"
"""How an image's settings name the init that reads these units."""

FOLDER = "/usr/lib/systemd/system"

WIPE = "ephemeroot-wipe.service"
PERSIST = "ephemeroot-persist.service"
INERT = "ephemeroot-inert.service"
FSCK = "ephemeroot-fsck.service"

# What other units need of Ephemeroot's. Generated units (sysroot.mount) cannot be edited or
# enabled for, so the links are made here.
_REQUIRED_BY = {
    WIPE: ("sysroot.mount", "initrd-root-fs.target"),
    PERSIST: ("initrd-root-fs.target",),
}

# What systemd would do with the root itself. It learns of a mount that somebody else has made
# with a delay (the events are rate-limited), so it is told to look before it mounts a second one.
_ROOT_UNITS = ("sysroot.mount", "systemd-fsck-root.service")

# Seconds that udev may need for a device that the loop's last job has made.
_SETTLE = 10

_ON_NO_DEVICE = frozenset(
    ("nfs", "nfs4", "overlay", "tmpfs", "virtiofs", "zfs", "9p", "cifs", "smb3")
)


@dataclass(frozen=True)
class Loop:
    """A generator's loop that makes devices appear: ``unit`` runs it beside systemd, ``seconds``
    is how long it waits before it gives up.
    """

    unit: str
    seconds: int


class Device:
    """A device that the wipe waits for: ``path`` in /dev, ``timeout`` in seconds, and
    ``check``, whether a file system check belongs before its first mount.
    """

    __slots__ = ("check", "path", "timeout")

    def __init__(self, spec: str, kind: str, timeout: int) -> None:
        self.path = link(spec)
        self.timeout = timeout
        from ephemeroot.hooks.guards import fsck  # only an image has use for it

        self.check = fsck.is_checked(kind)

    @property
    def unit(self) -> str:
        """The device's unit."""
        return escape_path(self.path) + ".device"

    def limit(self, loop: Loop | None) -> str:
        """How long its unit waits, as systemd writes it: what *loop* has not waited yet."""
        if not self.timeout:
            return "infinity"
        return str(max(self.timeout - loop.seconds, _SETTLE) if loop else self.timeout)

    @property
    def fsck(self) -> str:
        """The unit that checks the file system on it."""
        return f"systemd-fsck@{escape_path(self.path)}.service"


def is_on_device(kind: str) -> bool:
    """Whether a volume of this type is on a block device."""
    return kind not in _ON_NO_DEVICE


def waited_for(plan: Plan) -> list[Device]:
    """What the wipe waits for, each device once. Raises ``Damaged``."""
    found: dict[str, Device] = {}
    try:
        devices = [
            Device(volume.device, volume.type, volume.timeout)
            for volume in plan.volumes()
            if is_on_device(volume.type)
        ]
        for wipe in plan.wipes():
            if wipe.device is not None:
                device = Device(wipe.device, wipe.wiper, 90)
                device.check = False  # the wiper's own business
                devices.append(device)
        for device in devices:
            known = found.setdefault(device.path, device)
            known.check |= device.check
    except ValueError as error:
        raise Damaged(f"the plan names an invalid device: {error}") from None
    return list(found.values())


def required() -> list[str]:
    """The names that an armed image must have, for reading one back."""
    names = []
    for unit, others in _REQUIRED_BY.items():
        names.append(f"{FOLDER}/{unit}")
        names += [f"{FOLDER}/{other}.requires/{unit}" for other in others]
    return names


def add(
    tree: Tree, devices: list[Device], *, mounts_root: bool = False, loop: Loop | None = None
) -> None:
    """Put the units of both stages into *tree*, ready to start.

    *mounts_root*: the wiper mounts the root itself, and systemd only if that was not done.
    *loop*: one that waits for the devices itself runs before; dracut's, for one, starts an array
    that lacks a disk only late.
    The stages wait for their devices but do not require them: a device that is missing is
    for the stage to report, and for its policy to decide.
    """
    for unit, others in _REQUIRED_BY.items():
        tree.write(f"{FOLDER}/{unit}", data.unit(unit), why="unit")
        for other in others:
            tree.link(f"{FOLDER}/{other}.requires/{unit}", f"../{unit}", why=f"for {other}")
    if mounts_root:
        tree.folder("/sysroot")  # systemd makes it when it mounts the root itself, dracut before
        for unit in _ROOT_UNITS:
            tree.write(
                f"{FOLDER}/{unit}.d/ephemeroot.conf",
                "[Unit]\nConditionPathIsMountPoint=!/sysroot\n",
                why="mounted by the wiper",
            )
    names = sorted({d.unit for d in devices} | {d.fsck for d in devices if d.check})
    if names:
        lines = "".join(f"Wants={name}\nAfter={name}\n" for name in names)
        tree.write(f"{FOLDER}/{WIPE}.d/volumes.conf", f"[Unit]\n{lines}", why="volumes")
    for device in devices:
        if device.check:
            tree.write(f"{FOLDER}/{device.fsck}", data.unit(FSCK), why="volumes")
        # The name sorts behind the generators' own: dracut's says that the root's device is
        # waited for without end, and then no policy for a missing store would ever be asked.
        # A job that waits for others is not running yet: time that people take to type a
        # passphrase does not count.
        after = f"cryptsetup.target {loop.unit}" if loop else "cryptsetup.target"
        tree.write(
            f"{FOLDER}/{device.unit}.d/zz-ephemeroot.conf",
            f"[Unit]\nAfter={after}\n"
            f"JobTimeoutSec=infinity\nJobRunningTimeoutSec={device.limit(loop)}\n",
            why=device.path,
        )


def add_inert(tree: Tree) -> None:
    """Put the one unit into *tree* that only says why this image does nothing."""
    tree.write(f"{FOLDER}/{INERT}", data.unit(INERT), why="unit")
    tree.link(f"{FOLDER}/initrd.target.wants/{INERT}", f"../{INERT}", why="for initrd.target")
