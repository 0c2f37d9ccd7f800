"""The kinds of initramfs that there are, told apart by what runs in them."""

from __future__ import annotations

from pathlib import Path

from ephemeroot.image import data

SYSTEMD = "systemd"
"""systemd, with an emergency shell: the stages are units."""

DRACUT = "dracut"
"""dracut's own init, a shell script: the stages are hooks that it sources."""

BUSYBOX = "busybox"
"""mkinitcpio's own init, likewise."""

NONE = "none"
"""Something that the stages cannot run under."""

KINDS = (SYSTEMD, DRACUT, BUSYBOX, NONE)

# Type and priority of dracut's hooks. The wipe: behind resume's 10. Persistence: before
# 50-mount-usr, which reads the /etc/fstab that counts.
_ARMED = {"ephemeroot-wipe.sh": ("pre-mount", "50"), "ephemeroot-persist.sh": ("pre-pivot", "30")}
_INERT = {"ephemeroot-inert.sh": ("pre-mount", "50")}


def dracut_hooks(*, armed: bool) -> list[tuple[str, str, Path]]:
    """Type, priority and file of each hook for dracut's own init."""
    folder = data.folder("dracut") / "90ephemeroot"
    hooks = _ARMED if armed else _INERT
    return [(kind, priority, folder / name) for name, (kind, priority) in hooks.items()]


def required_hooks() -> list[str]:
    """How the names of those hooks end in an armed image, wherever dracut puts hooks."""
    return [f"/{kind}/{priority}-{name}" for name, (kind, priority) in _ARMED.items()]
