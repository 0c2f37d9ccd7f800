"""Reading ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import sys

from ephemeroot.linux import paths, values


class Mount:
    """One line of mountinfo. ``root`` is the path inside the filesystem (for btrfs the
    subvolume's), ``major_minor`` the device, ``options`` the mount's own options and
    ``super_options`` the filesystem's.
    """

    __slots__ = (
        "fstype", "id", "major_minor", "options", "parent", "point", "root", "shared", "source",
        "super_options",
    )  # fmt: skip

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        self.id = int(fields[0])
        self.parent = int(fields[1])
        self.major_minor = fields[2]
        self.root = unescape(fields[3])
        self.point = unescape(fields[4])
        self.options = fields[5].split(",")
        self.shared = any(field.startswith("shared:") for field in fields[6:])
        rest = after.split(" ")
        self.fstype = rest[0]
        self.source = unescape(rest[1]) if len(rest) > 1 else ""
        self.super_options = rest[2].split(",") if len(rest) > 2 else []


def unescape(text: str) -> str:
    """Decode the octal escapes of mountinfo and fstab: ``\\040`` is a blank."""
    if "\\" not in text:
        return text
    out = bytearray()
    raw = text.encode("utf-8", "surrogateescape")
    position = 0
    while position < len(raw):
        digits = raw[position + 1 : position + 4]
        if raw[position] == 0x5C and len(digits) == 3 and all(0x30 <= d <= 0x37 for d in digits):
            out.append(int(digits, 8) & 0xFF)
            position += 4
        else:
            out.append(raw[position])
            position += 1
    return out.decode("utf-8", "surrogateescape")


def mounts(text: str | None = None, *, containing: str = "") -> list[Mount]:
    """The mounts of this process's namespace, in the kernel's order; only those whose lines have
    *containing*, which saves the parsing of thousands of others.
    """
    if text is None:
        raw = paths.read("/proc/self/mountinfo", 1 << 26)
        text = raw.decode("utf-8", "surrogateescape")
    return [Mount(line) for line in text.split("\n") if line and containing in line]


def mounted_at(point: str) -> Mount | None:
    """The topmost mount exactly at *point* (a resolved, absolute path), or ``None``.

    That is the mount without another one on top, which need not be the last line: since Linux 6.8,
    lines are in the order in which mounts were created.
    """
    written = point if _ESCAPED.isdisjoint(point) else ""
    return _topmost([mount for mount in mounts(containing=written) if mount.point == point])


_ESCAPED = frozenset(" \t\n\\#")  # fs/proc_namespace.c and fs/seq_file.c, mangle_path


def of(fd: int) -> Mount | None:
    """The mount on which *fd* was opened; ``None`` if it is not in this process's namespace."""
    for line in paths.read(f"/proc/self/fdinfo/{fd}", 1 << 16).split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"mnt_id":  # proc_pid_fdinfo(5)
            number = int(value)
            return next((mount for mount in mounts() if mount.id == number), None)
    return None


def covering(path: str, among: list[Mount]) -> Mount | None:
    """The mount of *among* that contains *path* (resolved, absolute): the topmost one at the
    innermost mount point that is *path* or above it.
    """
    points = {mount.point for mount in among}
    while path not in points:
        if path in ("/", ""):
            return None
        path = os.path.dirname(path)
    return _topmost([mount for mount in among if mount.point == path])


def _topmost(here: list[Mount]) -> Mount | None:
    below = {mount.parent for mount in here if mount.parent != mount.id}
    # There are several if a later mount covers the directory itself; the later one is visible.
    return next((mount for mount in reversed(here) if mount.id not in below), None)


def everywhere() -> list[str]:
    """The text of mountinfo in each mount namespace, each namespace once."""
    texts = []
    namespaces: set[str] = set()
    numbered = [name for name in paths.names("/proc") if values.number(name) is not None]
    for process in ["self", *numbered]:
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace in namespaces:
                continue
            fd = os.open(f"/proc/{process}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            try:
                texts.append(_read_all(fd))
            finally:
                os.close(fd)
            namespaces.add(namespace)
        except OSError:  # the process has ended
            if process == "self":
                raise
    return texts


def _read_all(fd: int) -> str:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts).decode(sys.getfilesystemencoding(), "surrogateescape")
