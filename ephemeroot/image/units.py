"""Files for systemd in the initramfs: our units, their links, and drop-ins for devices."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.errors import Damaged
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import data
from ephemeroot.image.tree import Tree
from ephemeroot.linux.devices import link
from ephemeroot.linux.units import escape_path

SYSTEMD = "systemd"
"""The name in an image's settings of the init that runs these units."""

FOLDER = "/usr/lib/systemd/system"

WIPE = "ephemeroot-wipe.service"
PERSIST = "ephemeroot-persist.service"
INERT = "ephemeroot-inert.service"
FSCK = "ephemeroot-fsck.service"

# Units that require ours. Generated units (sysroot.mount) cannot be edited or enabled for, so the
# links are made here.
_REQUIRED_BY = {
    WIPE: ("sysroot.mount", "initrd-root-fs.target"),
    PERSIST: ("initrd-root-fs.target",),
}

# systemd's own units for the root. systemd learns of a mount by another process with a delay (the
# events are rate-limited), so a condition prevents a second mount.
_ROOT_UNITS = ("sysroot.mount", "systemd-fsck-root.service")

# Seconds that udev may need for a device that the loop has set up last.
_SETTLE = 10

_ON_NO_DEVICE = frozenset(
    ("nfs", "nfs4", "overlay", "tmpfs", "virtiofs", "zfs", "9p", "cifs", "smb3")
)


@dataclass(frozen=True)
class Loop:
    """A generator's loop that sets up devices: ``unit`` runs it beside systemd, ``seconds`` is its
    timeout.
    """

    unit: str
    seconds: int


class Device:
    """A device that the wipe waits for: ``path`` in /dev, ``timeout`` in seconds, and ``check``:
    a file system check runs before its first mount.
    """

    __slots__ = ("check", "path", "timeout")

    def __init__(self, spec: str, kind: str, timeout: int) -> None:
        self.path = link(spec)
        self.timeout = timeout
        from ephemeroot.hooks.guards import fsck  # imported only to build an image

        self.check = fsck.is_checked(kind)

    @property
    def unit(self) -> str:
        """The device's unit."""
        return escape_path(self.path) + ".device"

    def limit(self, loop: Loop | None) -> str:
        """The timeout of its unit in systemd's syntax: the rest after the timeout of *loop*."""
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
    """The devices that the wipe waits for, each once. Raises ``Damaged``."""
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
                device.check = False  # the wiper checks it itself
                devices.append(device)
        for device in devices:
            known = found.setdefault(device.path, device)
            known.check |= device.check
    except ValueError as error:
        raise Damaged(
            f"the plan names an invalid device: {error}",
            "correct the device, then run 'ephemeroot apply'",
        ) from None
    return list(found.values())


def required() -> list[str]:
    """The files that an armed image must contain."""
    names = []
    for unit, others in _REQUIRED_BY.items():
        names.append(f"{FOLDER}/{unit}")
        names += [f"{FOLDER}/{other}.requires/{unit}" for other in others]
    return names


def add(
    tree: Tree, devices: list[Device], *, mounts_root: bool = False, loop: Loop | None = None
) -> None:
    """Add the units of both stages to *tree*, enabled.

    *mounts_root*: the wiper mounts the root itself, and systemd mounts it only if it did not.
    *loop* runs before, if it waits for the devices itself: dracut's loop starts an array that lacks
    a disk only after a delay.
    The stages wait for their devices but do not require them: the stage reports a missing device,
    and its policy decides.
    """
    for unit, others in _REQUIRED_BY.items():
        tree.write(f"{FOLDER}/{unit}", data.unit(unit), why="unit")
        for other in others:
            tree.link(f"{FOLDER}/{other}.requires/{unit}", f"../{unit}", why=f"for {other}")
    if mounts_root:
        tree.folder("/sysroot")  # systemd creates it only for its own mount, dracut before
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
        # The name sorts after the generators' own drop-ins: dracut's removes the timeout of the
        # root's device, so that no policy for a missing store would take effect.
        # A job that waits for others is not running yet, so the time for typing a passphrase does
        # not use up the timeout.
        after = f"cryptsetup.target {loop.unit}" if loop else "cryptsetup.target"
        tree.write(
            f"{FOLDER}/{device.unit}.d/zz-ephemeroot.conf",
            f"[Unit]\nAfter={after}\n"
            f"JobTimeoutSec=infinity\nJobRunningTimeoutSec={device.limit(loop)}\n",
            why=device.path,
        )


def add_inert(tree: Tree) -> None:
    """Add the unit that prints why this image is inert to *tree*."""
    tree.write(f"{FOLDER}/{INERT}", data.unit(INERT), why="unit")
    tree.link(f"{FOLDER}/initrd.target.wants/{INERT}", f"../{INERT}", why="for initrd.target")
