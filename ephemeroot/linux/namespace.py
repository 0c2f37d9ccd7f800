"""A private mount namespace, with a directory in it for the mounts of the program.

A verb that reads the top level of a filesystem, an old root, a base or a store mounts it only here.
The reasons:

- The caller's namespace never has these mounts, so no path in it, such as a temporary directory
  that is being removed, leads into the top level of a filesystem.
- The kernel unmounts everything with the namespace, also after a crash, so no program has to clean
  up or removes a directory that contained mounts.
- Other runs see the mounts in ``/proc/PID/mountinfo``, which they read before they delete
  (``mountinfo.everywhere``). It does not show detached mounts, which before Linux 6.15 cannot be
  cloned either (open_tree(2)).

The other mounts become slaves of the caller's (mount_namespaces(7)): later mounts and unmounts of
the machine, such as an automount, propagate to this namespace, and none propagates back.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ephemeroot.errors import Refused
from ephemeroot.linux import kernel, mounts, paths

# Not in /run/ephemeroot: that directory exists only if the initramfs has created it.
_RUN, _FOLDER = "/run", "ephemeroot.mounts"

POINT = f"{_RUN}/{_FOLDER}"
"""The mount point: an empty directory of root, covered by a tmpfs in the namespace."""

_CLONE_NEWNS = 0x00020000
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Namespace:
    """``with Namespace() as private:`` moves this process, which must have one thread, into a
    private mount namespace, and back at the end. Raises ``Refused`` if that is not possible.
    """

    __slots__ = ("_before", "_count", "_entered", "_here", "_root")

    def __init__(self) -> None:
        self._entered = False
        self._before = self._root = self._here = -1
        self._count = 0

    def __enter__(self) -> Namespace:
        try:
            self._before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            self._root, self._here = os.open("/", _READ), os.open(".", os.O_PATH | os.O_CLOEXEC)
            _unshare()
            self._entered = True
            _make_slave()
            _cover()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def directory(self) -> str:
        """The path of a new, empty directory for mounts of this process."""
        self._count += 1
        path = f"{POINT}/{os.getpid()}-{self._count}"
        os.mkdir(path, 0o700)
        return path

    def leave(self) -> None:
        """Return to the caller's namespace; the kernel unmounts everything in this one.

        It can be called twice. Raises ``OSError``.
        """
        try:
            if self._entered:
                self._entered = False
                if kernel.libc.setns(self._before, ctypes.c_int(_CLONE_NEWNS)) != 0:
                    kernel.raise_errno("the mount namespace")
                # setns(2) has moved both to the root of the namespace, which a chroot is not.
                os.fchdir(self._root)
                os.chroot(".")
                os.fchdir(self._here)
        finally:
            for fd in (self._before, self._root, self._here):
                if fd >= 0:
                    os.close(fd)
            self._before = self._root = self._here = -1


def _unshare() -> None:
    try:
        if kernel.libc.unshare(_CLONE_NEWNS) != 0:
            kernel.raise_errno("unshare")
    except OSError as error:
        hints = {
            errno.EPERM: "run the command as root; in a container, with CAP_SYS_ADMIN",
            errno.ENOSPC: "run 'sysctl user.max_mnt_namespaces' to see the limit",
        }
        raise Refused(
            f"cannot create a mount namespace: {error.strerror}", hints.get(error.errno or 0, "")
        ) from error


def _make_slave() -> None:
    """Stop mounts here from propagating to the caller's namespace."""
    flags = ctypes.c_ulong(mounts.MS_SLAVE | mounts.MS_REC)
    try:
        if kernel.libc.mount(b"none", b"/", None, flags, None) != 0:
            kernel.raise_errno("/")
    except OSError as error:
        raise Refused(
            f"cannot separate the mounts of a new namespace: {error.strerror}",
            # EINVAL: the root directory is that of a chroot.
            "in a chroot, run 'mount --bind DIR DIR' for its directory first",
        ) from error


def _cover() -> None:
    """Mount a tmpfs on ``POINT``, only in this namespace."""
    try:
        place = _open_point()
        try:
            options = ["mode=0700", "size=16m", "nr_inodes=4k", "nosuid", "nodev", "noexec"]
            mount = mounts.create("tmpfs", "ephemeroot", options)
            try:
                # Unbindable: a recursive clone of /run (base run) leaves this mount out.
                mounts.set_flags(mount, unbindable=True, name=POINT)
                mounts.attach(mount, place, name=POINT)
            finally:
                os.close(mount)
        finally:
            os.close(place)
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "run 'df /run' and 'df -i /run', and free space or inodes in /run"
        elif error.errno in (errno.ELOOP, errno.ENOTDIR):
            hint = f"run 'ls -ld {POINT}', and make it a directory"
        raise Refused(f"cannot mount at {POINT}: {error.strerror}", hint) from error


def _open_point() -> int:
    """Open ``POINT``, created if it is missing."""
    run = os.open(_RUN, _READ)
    try:
        try:
            os.mkdir(_FOLDER, 0o700, dir_fd=run)
        except FileExistsError:
            pass  # created by another run
        return paths.open_beneath(run, _FOLDER, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(run)
