"""File system checks in an initramfs whose init does not run them.

With systemd they are units before the wipe. Everywhere else the stage calls the checker
itself, once it is certain that no resume is pending: a check writes to the disk.
"""

from __future__ import annotations

import os

from ephemeroot.errors import StoreMissing

# Filesystems whose repair is not fsck's business, or that are on no device.
_UNCHECKED = frozenset((
    "bcachefs", "btrfs", "erofs", "nfs", "nfs4", "overlay", "squashfs", "tmpfs", "virtiofs",
    "xfs", "zfs", "9p", "cifs", "smb3", "auto",
))  # fmt: skip

# fsck(8): reboot needed, errors left. The rest is what systemd continues after, too.
_UNSOUND = 2 | 4


def is_checked(kind: str) -> bool:
    """Whether fsck has something to do before the first mount of this type."""
    return kind not in _UNCHECKED


def require_sound(kind: str, device: str, folder: str = "/usr/sbin") -> str:
    """Correct everything that can be corrected without asking; return the changes in a few words.

    ``folder`` has the checkers. Raises ``StoreMissing`` if errors are left: nothing may be
    mounted then.
    """
    program = f"{folder}/fsck.{kind}"
    if not is_checked(kind) or not os.path.exists(program):
        return "unchecked"
    process = os.posix_spawn(program, [program, "-a", device], os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code < 0 or code & _UNSOUND:
        raise StoreMissing(
            f"fsck.{kind} found errors on {device} that it could not correct (exit status {code})",
            f"run 'fsck.{kind} {device}' in the emergency shell or from another system",
        )
    return "checked"
