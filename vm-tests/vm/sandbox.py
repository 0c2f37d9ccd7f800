"""Private mount namespaces: programs of another tree, run without leaving a mount on the host."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_REC = 0x4000  # linux/mount.h
_MS_PRIVATE = 1 << 18

# Everything below /usr comes from the tree, everything else is the host's, so that paths, devices
# and file descriptors are equal inside and outside (mkosi runs its tools this way). The
# linker's cache has to match the libraries that it lists.
_WITH_USR = """
set -e
mount --bind "$0/usr" /usr
if [ -e /etc/ld.so.cache ]; then mount --bind "$0/etc/ld.so.cache" /etc/ld.so.cache; fi
exec "$@"
"""

# A writable view of stacked read-only trees, used as a root. $1: scratch folder with lower folders
# in `lower`, named so that overlayfs needs no escaping whatever the cache's path is.
_CHROOT = """
set -e
cd "$1"; shift
layers=
for folder in "$@"; do
    [ "$folder" = -- ] && break
    mkdir -p "l$#"; mount --bind "$folder" "l$#"; layers="l$#${layers:+:$layers}"; shift
done
shift
mkdir -p root results
mount -t tmpfs -o mode=0755 tmpfs root
mkdir root/upper root/work root/new
# index, metacopy and redirect_dir off: a stack of other folders than in an earlier run must mount
off=index=off,metacopy=off,redirect_dir=off
mount -t overlay -o "lowerdir=$layers,upperdir=root/upper,workdir=root/work,$off" overlay root/new
mount -t proc proc root/new/proc
mount -t sysfs -o ro sysfs root/new/sys
mount --rbind /dev root/new/dev
mount -t tmpfs -o mode=1777 tmpfs root/new/tmp
mount -t tmpfs -o mode=0755 tmpfs root/new/run
mkdir root/new/run/results
mount --bind results root/new/run/results
chroot root/new "$@"
cp --archive root/upper changes
"""


def enter_private_mounts() -> None:
    """Move this process into a private mount namespace.

    Its mounts end with it, even if it is killed.

    Raises PermissionError without CAP_SYS_ADMIN.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
    ]
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        raise OSError(
            ctypes.get_errno(), f"mount --make-rprivate /: {os.strerror(ctypes.get_errno())}"
        )


def _private(script: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]


def with_usr(tree: Path, argv: Sequence[str | Path]) -> list[str]:
    """The command line that runs `argv` on this host but with the `/usr` of `tree`.

    The process that starts becomes, after three execs, the program itself: wait for its PID.
    """
    return [*_private(_WITH_USR), str(tree), *(str(word) for word in argv)]


def in_layers(scratch: Path, layers: Sequence[Path], argv: Sequence[str | Path]) -> list[str]:
    """The command line that runs `argv` with a writable root made of `layers`, the last on top.

    Files written to `/run/results` are in `scratch/results`, other changes in `scratch/changes`, as
    overlayfs stores them, which is again a layer.
    """
    stacked = [str(layer) for layer in layers]
    words = [*_private(_CHROOT), "chroot", str(scratch), *stacked, "--"]
    return [*words, *(str(word) for word in argv)]
