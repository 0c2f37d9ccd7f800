"""The kinds of initramfs that there are, told apart by what runs in them."""

from __future__ import annotations

from pathlib import Path

from ephemeroot.image import data
from ephemeroot.wipers.contract import Wiper

SYSTEMD = "systemd"
"""systemd, with an emergency shell: the stages are units."""

DRACUT = "dracut"
"""dracut's own init, a shell script: the stages are hooks that it sources."""

BUSYBOX = "busybox"
"""mkinitcpio's own init, likewise."""

NONE = "none"
"""Something that the stages cannot run under."""

KINDS = (SYSTEMD, DRACUT, BUSYBOX, NONE)

# Type, priority and file of dracut's hooks. The wipe: behind resume, which has its turn before
# `pre-mount`; a wiper that mounts the root does so among the hooks for that, as the first.
# Persistence: before 50-mount-usr, which reads the /etc/fstab that counts.
_PERSIST = ("pre-pivot", "30", "ephemeroot-persist.sh")
_WIPE = ("pre-mount", "50", "ephemeroot-wipe.sh")
_MOUNT = ("mount", "00", "ephemeroot-wipe.sh")
_NO_DEVICE = ("cmdline", "96", "ephemeroot-root.sh")
_INERT = ("pre-mount", "50", "ephemeroot-inert.sh")

Hook = tuple[str, str, str]
"""Type, priority and file name of a hook for dracut's own init."""

WAIT: Hook = ("initqueue/finished", "50", "ephemeroot-wait.sh")
"""The hook that keeps dracut's loop, which makes devices, going until ours are there."""

MISSING: tuple[Hook, ...] = tuple(
    (kind, "05", "ephemeroot-missing.sh") for kind in ("emergency", "shutdown-emergency")
)
"""The hooks that speak where dracut gives up before the wipe; the second without a shell."""


def dracut_hooks(root: Wiper | None) -> list[Hook]:
    """The hooks of an armed image; *root* is the wiper of the root, if there is one."""
    if root is None or not root.MOUNTS_ROOT:
        return [_WIPE, _PERSIST]
    return [*([] if root.ON_DEVICE else [_NO_DEVICE]), _MOUNT, _PERSIST]


def inert_hooks() -> list[Hook]:
    """The hooks of an image that only says why it does nothing."""
    return [_INERT]


def hook_file(name: str) -> Path:
    """The file of the hook called *name* in this installation."""
    return data.folder("dracut") / "50ephemeroot" / name


def hook_name(hook: Hook) -> str:
    """How the name of *hook* ends in an image, wherever dracut puts hooks."""
    kind, priority, file = hook
    return f"/{kind}/{priority}-{file}"
