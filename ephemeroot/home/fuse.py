"""FUSE on this machine: what users can mount, and unmounting (fusermount3(1), fuse(4))."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time

from ephemeroot.errors import EphemerootError
from ephemeroot.home import holders
from ephemeroot.home.holders import Holder
from ephemeroot.linux import mountinfo
from ephemeroot.linux.mountinfo import Mount

DEVICE = "/dev/fuse"
CONFIGURATION = "/etc/fuse.conf"

INTERVAL = 0.25
"""Seconds between two attempts to unmount a busy filesystem."""

_PROGRAMS = ("fusermount3", "fusermount")
_WRAPPERS = "/run/wrappers/bin"
"""NixOS's directory of setuid programs."""


def find(name: str) -> str | None:
    """The path of the program *name*, ``None`` if it is not installed."""
    places = os.environ.get("PATH") or os.defpath
    return shutil.which(name, path=os.pathsep.join((places, _WRAPPERS, "/usr/bin", "/bin")))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program with messages in English and a working directory outside of our mounts."""
    return subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )


def fusermount() -> str:
    """The path of fusermount. Raises ``EphemerootError`` if it is not installed."""
    for name in _PROGRAMS:
        if found := find(name):
            return found
    raise EphemerootError("fusermount3 is not installed", "install the package fuse3")


def unusable() -> EphemerootError | None:
    """Why this user cannot mount with FUSE; ``None`` if possible."""
    try:
        program = fusermount()
    except EphemerootError as error:
        return error
    if os.getuid() != 0 and not os.stat(program).st_mode & stat.S_ISUID:
        return EphemerootError(
            f"{program} is not setuid root, so users cannot mount",
            f"as root, run 'chmod u+s {program}', or reinstall fuse3",
        )
    if not os.path.exists(DEVICE):
        return EphemerootError(f"{DEVICE} does not exist", "as root, run 'modprobe fuse'")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return EphemerootError(
            f"this user cannot open {DEVICE}", f"as root, run 'chmod 0666 {DEVICE}'"
        )
    return None


def others_forbidden() -> EphemerootError | None:
    """Why this user cannot use ``allow-other``; ``None`` if possible (mount.fuse3(8))."""
    if os.getuid() == 0:
        return None
    hint = (
        f"as root, add the line 'user_allow_other' to {CONFIGURATION}; or remove allow-other, "
        "which denies other users, and root, access to the mount"
    )
    try:
        with open(CONFIGURATION, encoding="utf-8", errors="replace") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except FileNotFoundError:
        lines = []
    except OSError as error:
        return EphemerootError(f"cannot read {CONFIGURATION}: {error.strerror}", hint)
    if "user_allow_other" in lines:
        return None
    return EphemerootError(f"allow-other needs 'user_allow_other' in {CONFIGURATION}", hint)


def is_fuse(mount: Mount) -> bool:
    """Whether *mount* is a FUSE filesystem (``fuse``, ``fuse.bindfs``, …)."""
    return mount.fstype == "fuse" or mount.fstype.startswith("fuse.")


def owner(mount: Mount) -> int | None:
    """The user who mounted the FUSE filesystem *mount*."""
    for option in mount.super_options:
        if found := re.fullmatch(r"user_id=(\d+)", option):
            return int(found[1])
    return None


def unmount(point: str, wait: float) -> list[Holder] | None:
    """Unmount the FUSE filesystem at *point*; lazily if it is still in use after *wait* seconds.

    Returns ``None``, or after a lazy unmount the processes that use it: the filesystem is detached
    and exists until they close it. Raises ``EphemerootError`` if it cannot be unmounted.
    """
    program = fusermount()
    before = mountinfo.mounted_at(point)
    deadline = time.monotonic() + wait
    while True:
        done = run(program, "-u", point)
        if done.returncode == 0 or _is_gone(before, point):
            return None
        if "busy" not in done.stderr:
            raise EphemerootError(f"cannot unmount {point}: {_said(done)}")
        if time.monotonic() >= deadline:
            break
        time.sleep(INTERVAL)
    found = holders.of(point)
    done = run(program, "-u", "-z", point)
    if done.returncode != 0 and not _is_gone(before, point):
        raise EphemerootError(f"cannot unmount {point} lazily: {_said(done)}")
    return found


def _is_gone(before: Mount | None, point: str) -> bool:
    """Whether the mount *before* is not at *point* any more: another process unmounted it."""
    now = mountinfo.mounted_at(point)
    return now is None or before is None or now.id != before.id


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
    return re.sub(r"^\w+: ", "", lines[-1])
