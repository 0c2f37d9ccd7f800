"""Running the packed tree as in the initramfs: in a chroot, in a private mount namespace."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

from ephemeroot.image import entry, tree
from ephemeroot.image.broken import Broken
from ephemeroot.linux import kernel, mounts

# include/uapi/linux/sched.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000

_NOT_ENTERED = 98


def verify(packed: tree.Tree, command: list[str]) -> None:
    """Run *command* (with paths as in the initramfs) with *packed* as its root.

    Meanwhile, the tree has the links that every initramfs has, and /proc. Raises ``Broken`` with
    the command's output unless it prints ``entry.POSITIVE``.
    """
    borrowed = [packed.top / name.lstrip("/") for name in tree.merged_links()]
    for link, target in zip(borrowed, tree.merged_links().values(), strict=True):
        link.symlink_to(target)
    proc = packed.top / "proc"
    proc.mkdir()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env={"PATH": "/usr/bin:/usr/sbin"},
            preexec_fn=lambda: _enter(packed.top),
            check=False,
        )
    except subprocess.SubprocessError:
        # `_enter` handles all other errors itself.
        raise KeyboardInterrupt from None
    finally:
        proc.rmdir()
        for link in borrowed:
            link.unlink()
    if done.returncode == 0 and done.stdout.startswith(entry.POSITIVE + " "):
        return
    reason = telling_line(done.stderr or done.stdout) or f"exit status {done.returncode}"
    raise Broken(
        f"the packed boot code does not run: {reason}",
        "reinstall the package named in the message, then run 'ephemeroot apply'",
    )


def telling_line(output: str) -> str:
    """The line of a failed interpreter's *output* with the cause: the last error in it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line.partition(" ")[0] or "rror:" in line]
    return (errors or lines or [""])[-1]


def _enter(top: Path) -> None:
    """Make *top* the root of this process. Runs in the child, which exits on an error."""
    try:
        _unshare()
        if _leave_others_alone():
            _bind(top, top)
            # A noexec mount of the folder for temporary files must not have an effect here.
            flags = mounts.MS_REMOUNT | mounts.MS_BIND | mounts.MS_RDONLY
            kernel.libc.mount(None, os.fsencode(top), None, flags, None)
            _bind(Path("/proc"), top / "proc")
        os.chroot(top)
        os.chdir("/")
    except OSError as error:
        os.write(2, f"cannot enter the packed tree: {error}\n".encode())
        os._exit(_NOT_ENTERED)


def _leave_others_alone() -> bool:
    """Stop our mounts from propagating; return whether that is possible.

    It is not possible in a chroot that is not a mount point, where images for other systems are
    built: nothing is mounted there, and the plain chroot is used.
    """
    if kernel.libc.mount(None, b"/", None, mounts.MS_REC | mounts.MS_PRIVATE, None) == 0:
        return True
    if ctypes.get_errno() == errno.EINVAL:
        return False
    kernel.raise_errno("/")
    return False


def _bind(source: Path, target: Path) -> None:
    flags = mounts.MS_BIND | mounts.MS_REC
    if kernel.libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None) != 0:
        kernel.raise_errno(str(source))


def _unshare() -> None:
    """Enter a mount namespace; without the privilege for it, in a new user namespace."""
    libc = kernel.libc
    libc.unshare.argtypes = (ctypes.c_int,)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNS) == 0:
        return
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER) != 0:
        kernel.raise_errno("unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
