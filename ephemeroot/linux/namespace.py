"""A mount namespace of this process's own, with a place in it for the mounts of the program.

A verb that looks at the top level of a filesystem, an old root, a base or a store mounts it here
and nowhere else. The reasons:

- The caller's namespace has none of these mounts at any time. Nothing in it, such as a temporary
  directory that is being removed, leads into the top level of a filesystem.
- The kernel unmounts everything with the namespace, whatever ended the process: no program has to
  clean up, and none removes a directory that had mounts in it.
- Other runs see the mounts in ``/proc/PID/mountinfo``, where they look before they delete
  (``mountinfo.everywhere``). A detached mount is not shown there, and before Linux 6.15 it cannot
  be cloned (open_tree(2)).

The other mounts become slaves of the caller's (mount_namespaces(7)): what the machine mounts and
unmounts meanwhile, an automount for one, arrives here, and nothing goes back.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ephemeroot.errors import Refused
from ephemeroot.linux import kernel, mounts, paths

# Not in /run/ephemeroot: that this exists says that the initramfs has made it.
_RUN, _FOLDER = "/run", "ephemeroot.mounts"

POINT = f"{_RUN}/{_FOLDER}"
"""Where the program mounts: root's own empty directory, covered by a tmpfs in the namespace."""

_CLONE_NEWNS = 0x00020000
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Namespace:
    """``with Namespace() as private:`` moves this process, which must have one thread, into a mount
    namespace of its own, and back at the end. Raises ``Refused`` if that is not possible.
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
        """The path of a new, empty directory in which only this process mounts."""
        self._count += 1
        path = f"{POINT}/{os.getpid()}-{self._count}"
        os.mkdir(path, 0o700)
        return path

    def leave(self) -> None:
        """Return to the caller's namespace; what was mounted in this one is unmounted with it.

        Safe to call twice. Raises ``OSError``.
        """
        try:
            if self._entered:
                self._entered = False
                if kernel.libc.setns(self._before, ctypes.c_int(_CLONE_NEWNS)) != 0:
                    kernel.raise_errno("the mount namespace")
                # setns(2) has moved both to the root of the namespace: not that of a chroot.
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
            errno.EPERM: "run it as root; in a container, with CAP_SYS_ADMIN",
            errno.ENOSPC: "see the limit with 'sysctl user.max_mnt_namespaces'",
        }
        raise Refused(
            f"cannot make a mount namespace: {error.strerror}", hints.get(error.errno or 0, "")
        ) from error


def _make_slave() -> None:
    """Stop the mount here from appearing in the caller's namespace."""
    flags = ctypes.c_ulong(mounts.MS_SLAVE | mounts.MS_REC)
    try:
        if kernel.libc.mount(b"none", b"/", None, flags, None) != 0:
            kernel.raise_errno("/")
    except OSError as error:
        raise Refused(
            f"cannot separate the mounts of a new namespace from the machine's: {error.strerror}",
            # EINVAL: the root directory is that of a chroot.
            "if this is a chroot, make its directory a mount point: 'mount --bind DIR DIR'",
        ) from error


def _cover() -> None:
    """Cover ``POINT`` by a tmpfs, in this namespace alone."""
    try:
        place = _open_point()
        try:
            options = ["mode=0700", "size=16m", "nr_inodes=4k", "nosuid", "nodev", "noexec"]
            mount = mounts.create("tmpfs", "ephemeroot", options)
            try:
                # Unbindable: a recursive clone of /run (base run) leaves out the mount here.
                mounts.set_flags(mount, unbindable=True, name=POINT)
                mounts.attach(mount, place, name=POINT)
            finally:
                os.close(mount)
        finally:
            os.close(place)
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free space or inodes in /run: see 'df /run' and 'df -i /run'"
        elif error.errno in (errno.ELOOP, errno.ENOTDIR):
            hint = f"make {POINT} a directory: see 'ls -ld {POINT}'"
        raise Refused(f"cannot mount at {POINT}: {error.strerror}", hint) from error


def _open_point() -> int:
    """``POINT``, open, made if it is missing."""
    run = os.open(_RUN, _READ)
    try:
        try:
            os.mkdir(_FOLDER, 0o700, dir_fd=run)
        except FileExistsError:
            pass  # of another run
        return paths.open_beneath(run, _FOLDER, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(run)
