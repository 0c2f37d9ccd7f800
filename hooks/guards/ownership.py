"""Is the root that boots the one that the plan was applied for?

A kernel command line that names another root, such as a snapshot that the boot menu offers, boots
that one untouched: nothing is wiped, bound, copied back, marked or pruned. So does one with which
another program puts a layer over the root, and a crash kernel's. ``ForeignRoot`` says so; the
stages turn it into an outcome of its own.

What the root is, the wiper says (``Wiper.identify``): filesystem UUID and subvolume path, or pool
and dataset, and never the name of a device.
"""

from __future__ import annotations

import os

from ephemeroot.errors import Damaged, DeviceMissing, ForeignRoot, Refused
from ephemeroot.hooks.guards import waiting
from ephemeroot.hooks.report import WARNING
from ephemeroot.linux import devices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ephemeroot.hooks.cmdline import CommandLine
    from ephemeroot.hooks.stage import Stage
    from ephemeroot.wipers.contract import Named, Wiper

    class Wipe(Protocol):
        """The operation that makes the root fresh (``wipe.Wipe``), as far as it is asked here."""

        device: str | None
        subvolume: str | None
        settings: dict[str, object]
        identity: dict[str, object]

        def load(self) -> Wiper: ...


RECORD = "foreign"
"""In the run directory of a boot whose root is not the plan's: ``kind``, ``reason``, ``hint``."""

ROOT, FILESYSTEM, LAYER, CRASH = "root", "filesystem", "layer", "crash"
SOFT_REBOOT = "soft-reboot"

MOUNTED = "prepared"
"""In the run directory: ``identity`` is which root this boot's persistence stage has prepared."""

DEVICE_TIMEOUT = 90
"""Seconds that the root's device is waited for; systemd's own default."""

_VMCORE = "/proc/vmcore"

# systemd-volatile-root.service(8), ostree-prepare-root(1), dracut.cmdline(7) (rd.overlay is
# rd.live.overlay.overlayfs and rd.overlayfs in older releases), Debian's rootovl, overlayroot(8).
_LAYERS = ("systemd.volatile", "ostree", "rd.overlay", "rd.overlayfs", "rd.live", "rootovl",
           "overlayroot")  # fmt: skip
_NO_LAYER = ("0", "no", "n", "false", "f", "off", "disabled")

# Values of root= with which another program finds the block device (systemd-gpt-auto-generator(8),
# dracut.cmdline(7)). Any other value that is not a device is another kind of root: nfs:, live:, …
_FOUND_BY_OTHERS = ("gpt-auto", "gpt-auto-force", "dissect", "dissect-force", "dhcp", "dhcp4",
                    "dhcp6", "either6")  # fmt: skip
_ATTACHED_BY_OTHERS = ("iscsi:", "nbd:", "fcoe:")
_NO_BLOCK_DEVICES = ("/dev/nfs", "/dev/cifs", "/dev/ram", "/dev/ram0")
_GPT_AUTO = "/dev/gpt-auto-root"

_ANOTHER = (
    "to boot the ephemeral root, use root= and rootflags= of its own boot entry; to boot an old "
    "root, append ephemeroot.root=NAME"
)
_UNNAMED = (
    "run 'ephemeroot apply' in the ephemeral root; to make this root ephemeral instead, set "
    "subvolume in the wiper's table and run 'ephemeroot apply' here"
)
_APPLY = "if this filesystem was restored or created again, run 'ephemeroot apply' in it"

# Keys of an identity that only say on what the root is: the same name may be on another one.
_CONTAINERS = ("filesystem", "pool")


def require_no_crash_kernel(line: CommandLine, vmcore: str = _VMCORE) -> None:
    """Raise ``ForeignRoot`` in a kernel that was started to write a dump: its root is the one that
    crashed, and evidence.
    """
    if line.has("elfcorehdr") or os.path.exists(vmcore):
        raise ForeignRoot(
            CRASH, "this is a crash kernel: it wipes nothing and mounts no declared path"
        )


def require_named(stage: Stage, wipe: Wipe) -> None:
    """Raise ``ForeignRoot`` if the kernel command line alone says that another root boots."""
    word = layer(stage.cmdline)
    if word:
        raise ForeignRoot(
            LAYER,
            f"{word} is on the kernel command line: another program chooses the root",
            f"remove {word} from the kernel command line",
        )
    try:
        wiper = wipe.load()
    except Damaged:
        return  # the wipe reports it
    root = stage.cmdline.get("root")
    reason = type(wiper).foreign(wipe.settings, root)
    if not reason and wiper.ON_DEVICE and not _is_on_device(stage.cmdline):
        reason = "it is not a block device"
    if reason:
        raise ForeignRoot(ROOT, f"the kernel command line boots root={root}: {reason}", _ANOTHER)
    if stage.cmdline.root_subvolume_id() is None:
        _compare(_expected(wipe), wiper.identify(_named(stage)))


def require_same(stage: Stage, wipe: Wipe) -> None:
    """Raise ``ForeignRoot`` if what the command line names is another root, now that devices may
    be read: no resume is pending.

    Raises ``DeviceMissing`` and ``Refused`` for a device that cannot be used.
    """
    wiper = wipe.load()
    expected = _expected(wipe)
    if not wiper.ON_DEVICE:
        if expected:
            _compare(expected, wiper.identify(_named(stage, reads=True)))
        return
    asked = booted_device(stage.cmdline)
    spec = asked or wipe.device
    if spec is None:
        return  # the wipe refuses it
    path = device(stage, spec)
    # Another filesystem may be of a type that the wiper cannot mount.
    found = wiper.identify(_named(stage, path, reads=True))
    _compare(expected, found)
    if "subvolume" in expected:
        private = stage.private("root")
        _compare(expected, wiper.identify(_named(stage, path, private, reads=True)))
    elif "subvolume" in found:
        _require_recorded(stage, wiper, path, found["subvolume"])
    uuid = found.get("filesystem")
    if uuid and "filesystem" in expected:
        waiting.require_single(f"UUID={uuid}", f"the filesystem {uuid} of the root")
    if stage.cmdline.root_subvolume_id() is not None:
        stage.cmdline.root_subvolume()  # the right one today, another at the next boot: refused
    if wipe.device is not None and asked is not None:
        _require_same_device(stage, wipe.device, path, asked)


def require_mounted(stage: Stage, wipe: Wipe) -> None:
    """Raise ``ForeignRoot`` if the mounted root was not made fresh by this boot and is not
    the plan's.
    """
    try:
        found = wipe.load().identify_mounted(stage.target)
    except Damaged:
        return
    expected = _expected(wipe)
    _compare({key: value for key, value in expected.items() if key in found}, found)


def identity(root: int) -> str:
    """Which root is open as *root*, in words that hold while it is mounted: after a soft reboot
    into /run/nextroot (systemd-soft-reboot.service(8)) the boot is the same, the root another.
    """
    status = os.fstat(root)
    return f"{status.st_dev}:{status.st_ino}:{os.fstatvfs(root).f_fsid}"


def remember_mounted(stage: Stage) -> None:
    """Record which root this boot uses. Raises ``OSError``."""
    found: dict[str, object] = {"boot-id": stage.boot_id, "identity": identity(stage.root())}
    stage.remember(MOUNTED, found)


def require_prepared(root: int, prepared: str) -> None:
    """Raise ``ForeignRoot`` unless the open *root* is the one called *prepared* (``identity``)."""
    if identity(root) != prepared:
        raise ForeignRoot(
            SOFT_REBOOT,
            "a soft reboot has replaced the root that the initramfs prepared",
            "run 'systemctl reboot' to return to it",
        )


def remember(stage: Stage, error: ForeignRoot) -> str:
    """Record that this boot's root is another's, and say so; returns the outcome in a few words.

    The record keeps the units of the real system from marking, copying and pruning.
    """
    stage.report.set(RECORD, {"kind": error.kind, "reason": error.message, "hint": error.hint})
    if stage.recall(RECORD) is None:  # said once: dracut sources a hook up to 20 times
        hint = f" ({error.hint})" if error.hint else ""
        stage.report.log(f"{error.message}: the root boots unchanged{hint}", WARNING, console=True)
    record: dict[str, object] = {
        "boot-id": stage.boot_id, "kind": error.kind, "reason": error.message, "hint": error.hint,
    }  # fmt: skip
    try:
        stage.remember(RECORD, record)
    except OSError as failure:
        stage.report.problem(
            f"cannot record in {stage.run} that another root boots: {failure.strerror}",
            level=WARNING,
        )
    return f"another root boots, unchanged: {error.message}"


def recalled(stage: Stage) -> ForeignRoot | None:
    """What an earlier stage of this boot has recorded."""
    record = stage.recall(RECORD)
    if record is None:
        return None
    return ForeignRoot(*(str(record.get(key, "")) for key in ("kind", "reason", "hint")))


def booted_device(line: CommandLine) -> str | None:
    """The device of ``root=``, or the one that systemd has found instead of it."""
    asked = line.root_device()
    if asked is None and os.path.exists(_GPT_AUTO):
        return _GPT_AUTO
    return asked


def device(stage: Stage, spec: str, *, bootable: bool = False) -> str:
    """The path of the root's device. *bootable*: there is a root to boot also without it."""
    try:
        return waiting.device(stage, spec, DEVICE_TIMEOUT, f"the root's device {spec}")
    except DeviceMissing as error:
        if not bootable:
            raise
        raise Refused(error.message, error.hint) from None


def _expected(wipe: Wipe) -> dict[str, str]:
    """What the plan was applied for; a part of it if it is older, or for many machines."""
    expected = {key: str(value) for key, value in wipe.identity.items()}
    if wipe.subvolume is not None:
        expected.setdefault("subvolume", wipe.subvolume)
    return expected


def _named(stage: Stage, path: str = "", private: str = "", *, reads: bool = False) -> Named:
    from ephemeroot.wipers.contract import Named

    line = stage.cmdline
    return Named(
        device=path,
        root=line.get("root"),
        subvolume=line.named_subvolume(),
        subvolume_id=line.root_subvolume_id(),
        flags=line.root_flags(),
        reads=reads,
        private=private,
    )


def layer(line: CommandLine) -> str:
    """The word of the command line that puts a layer over the root; empty if there is none."""
    for key, value in line.words:
        if not any(key == name or key.startswith(f"{name}.") for name in _LAYERS):
            continue
        if (value or "").lower() not in _NO_LAYER:
            return key if value is None else f"{key}={value}"
    return ""


def _is_on_device(line: CommandLine) -> bool:
    root = line.get("root")
    if not root or line.root_device() is not None:
        return root not in _NO_BLOCK_DEVICES
    return root in _FOUND_BY_OTHERS or root.startswith(_ATTACHED_BY_OTHERS)


def _compare(expected: dict[str, str], found: dict[str, str]) -> None:
    """Raise ``ForeignRoot`` unless *found* agrees with *expected*."""
    different = [key for key in expected if key in found and found[key] != expected[key]]
    if not different:
        return
    key = next((k for k in different if k not in _CONTAINERS), different[0])
    raise ForeignRoot(
        FILESYSTEM if key in _CONTAINERS else ROOT,
        f"the {key} {found[key] or '/'} boots, but ephemeroot was applied for the {key} "
        f"{expected[key] or '/'}",
        _APPLY if key in _CONTAINERS else _ANOTHER,
    )


def _require_recorded(stage: Stage, wiper: Wiper, path: str, subvolume: str) -> None:
    """The plan does not name a root: it was made by an earlier version, or in a tree without that
    information.
    """
    named = _named(stage, path, stage.private("root"), reads=True)
    reason = wiper.unrecorded(named, stage.plan.system)
    if reason:
        raise ForeignRoot(
            ROOT,
            f"the plan does not name a root, and the booting root {subvolume} is not recorded as "
            f"the ephemeral root: {reason}",
            _UNNAMED,
        )
    stage.report.log(
        f"the plan does not name a root: {subvolume} from the kernel command line is made fresh "
        "(run 'ephemeroot apply' to write the root into the plan)",
        WARNING,
    )


def _require_same_device(stage: Stage, configured: str, path: str, asked: str) -> None:
    """*asked*, at *path*, is the device that boots; *configured* may be another name for it."""
    other = device(stage, configured, bootable=True)
    if devices.number(path) == devices.number(other):
        return
    uuid = devices.btrfs_uuid(path)
    if uuid is not None and uuid == devices.btrfs_uuid(other):
        return  # two devices of one filesystem
    raise ForeignRoot(
        ROOT,
        f"the kernel command line boots {asked}, but the ephemeral root is on {configured}",
        _ANOTHER,
    )
