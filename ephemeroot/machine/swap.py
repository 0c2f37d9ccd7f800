"""The swap files of a root, by /etc/fstab, by units and by their usual names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ephemeroot.linux import mountinfo, paths
from ephemeroot.machine.units import text_of, units_of

_USUAL = (
    "/swapfile", "/swap.img", "/swap.file", "/.swapfile", "/swap/swapfile", "/var/swap",
    "/var/swapfile", "/var/lib/swapfile",
)  # fmt: skip
_SIGNATURE, _PAGE = b"SWAPSPACE2", 4096


def files(root: int) -> list[str]:
    """The swap files in the open *root* and in mounts in it."""
    named = dict.fromkeys([*_in_fstab(root), *_in_units(root), *_USUAL])
    return [path for path in named if _is_one(root, path)]


def active(device: int) -> list[str]:
    """The swap files in use on the filesystem, or btrfs subvolume, *device* (``st_dev``)."""
    found = []
    try:
        lines = paths.read("/proc/swaps").decode("utf-8", "surrogateescape").splitlines()[1:]
    except OSError:
        return []  # a kernel without swap
    for line in lines:
        fields = line.split()
        if len(fields) < 2 or fields[1] != "file":
            continue
        path = mountinfo.unescape(fields[0])
        try:
            if os.stat(path).st_dev == device:
                found.append(path)
        except OSError:
            continue  # in another mount namespace
    return found


def _in_fstab(root: int) -> Iterator[str]:
    for line in text_of(root, "/etc/fstab").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "swap" and fields[0].startswith("/"):
            if not fields[0].startswith("/dev/"):
                yield mountinfo.unescape(fields[0])


def _in_units(root: int) -> Iterator[str]:
    for unit in units_of(root, (".swap",)):
        what = unit.last("What")
        if what.startswith("/") and not what.startswith("/dev/"):
            yield what


def _is_one(root: int, path: str) -> bool:
    try:
        fd = paths.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        return os.pread(fd, 10, _PAGE - len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)
