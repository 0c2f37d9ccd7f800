"""mkinitcpio's HOOKS: the init of the image, and whether the stages run at the right time.

With the hook ``udev``, the init of the image is a shell script that runs the hooks in the order of
HOOKS. With ``systemd``, the units have their own order.
"""

from __future__ import annotations

from collections.abc import Sequence

from ephemeroot.errors import Misconfigured
from ephemeroot.image.generators.contract import NONE
from ephemeroot.image.units import SYSTEMD

NAME = "ephemeroot"

SHELL = "mkinitcpio"
"""mkinitcpio's own init, a shell script: the stages are a hook that it sources."""

# Hooks that set up devices, or must run before anything is written to a disk: a wipe before
# `resume` destroys a hibernated system.
_BEFORE = frozenset((
    "udev", "block", "mdadm", "mdadm_udev", "lvm2", "dmraid", "encrypt", "plymouth-encrypt",
    "encryptssh", "clevis", "tpm2-encrypt", "net", "netconf", "nfs", "dropbear", "tinyssh",
    "bcache", "bcachefs", "btrfs", "zfs", "zfsencryptssh", "sleep", "resume", "uresume",
))  # fmt: skip

# Hooks that read the root's /etc/fstab, which is complete only after the persistence stage.
_BEHIND = frozenset(("usr",))


def is_fallback(hooks: Sequence[str], configured: Sequence[str]) -> bool:
    """Whether this is the fallback image, which is built for any machine and used for recovery."""
    return "autodetect" in configured and "autodetect" not in hooks


def init(hooks: Sequence[str]) -> str:
    """The init of an initramfs with *hooks*."""
    if "systemd" in hooks:
        return SYSTEMD
    return SHELL if {"base", "udev"} <= set(hooks) else NONE


def require_order(hooks: Sequence[str]) -> None:
    """Raise ``Misconfigured``, with the corrected line, if the wipe would run too early."""
    kind = init(hooks)
    if kind == NONE:
        raise Misconfigured(
            "HOOKS in mkinitcpio.conf has neither systemd nor base and udev",
            f"write {line(('base', 'udev', *hooks))}",
        )
    if kind == SYSTEMD or NAME not in hooks:
        return
    place = list(hooks).index(NAME)
    early = [hook for hook in hooks[place:] if hook in _BEFORE]
    late = [hook for hook in hooks[:place] if hook in _BEHIND]
    found = [f"{NAME} before {', '.join(early)}"] if early else []
    found += [f"{NAME} after {', '.join(late)}"] if late else []
    if found:
        raise Misconfigured(
            f"HOOKS in mkinitcpio.conf has the wrong order: {' and '.join(found)}",
            f"write {line(hooks)}",
        )


def sets_up_network(hooks: Sequence[str]) -> bool:
    """Whether a hook sets up the network, by its name (net, netconf, systemd-networkd, …)."""
    return any("net" in hook for hook in hooks)


def line(hooks: Sequence[str]) -> str:
    """HOOKS with the same words in the right order: our hook after the last one it depends on."""
    others = [hook for hook in dict.fromkeys(hooks) if hook != NAME]
    place = max((others.index(hook) for hook in others if hook in _BEFORE), default=-1) + 1
    before = [hook for hook in others[:place] if hook not in _BEHIND]
    moved = [hook for hook in others[:place] if hook in _BEHIND]
    return f"HOOKS=({' '.join([*before, NAME, *moved, *others[place:]])})"
