"""Mounting a directory of the store with bindfs(1)."""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass

from ephemeroot.errors import EphemerootError
from ephemeroot.home import fuse
from ephemeroot.home.model import Entry
from ephemeroot.linux.mountinfo import Mount

OLDEST = (1, 14)
"""The first supported version; ``mount`` documents differences between versions."""

ALLOW_OTHER = "allow_other"

_INSTALL = "install the package bindfs, version 1.14 or newer"
_SPECIAL = frozenset((*range(0x21), 0x7F, *b",\\%"))


@dataclass(frozen=True, slots=True)
class Bindfs:
    """The installed program."""

    program: str
    version: tuple[int, ...]

    @classmethod
    def find(cls) -> Bindfs:
        """The program on this machine. Raises ``EphemerootError`` if it is missing or too old."""
        program = fuse.find("bindfs")
        if program is None:
            raise EphemerootError("bindfs is not installed", _INSTALL)
        said = fuse.run(program, "--version").stdout
        found = re.match(r"bindfs (\d+(?:\.\d+)*)", said)
        if found is None:
            raise EphemerootError(f"{program} does not print its version", _INSTALL)
        version = tuple(int(number) for number in found[1].split("."))
        if version < OLDEST:
            raise EphemerootError(f"{program} is bindfs {found[1]}, which is too old", _INSTALL)
        return cls(program, version)

    def mount(self, entry: Entry) -> None:
        """Mount the entry's source at its target, which must be an empty directory.

        Returns after the mount; a process of this user serves it. Raises ``EphemerootError``.
        """
        options = [f"fsname={fsname(entry.source)}", "subtype=bindfs"]
        if not entry.allow_other:
            options.insert(0, "no-allow-other")
        _allow_many_files()
        done = fuse.run(self.program, "-o", ",".join(options), entry.source, entry.target)
        if done.returncode != 0:
            said = "; ".join(done.stderr.split("\n")).strip("; ")
            raise EphemerootError(
                f"bindfs cannot mount {entry.source} on {entry.target}: "
                f"{said or f'exit status {done.returncode}'}"
            )


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard limit, which bindfs inherits. It opens each
    file that a process opens in the mount. Sessions usually have a soft limit of 1,024 because of
    select(2) (systemd's NEWS of version 240), which bindfs does not use.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fsname(source: str) -> str:
    """The name of *source* in the mount table. Bytes with a meaning in FUSE's options or in mount
    tables are percent-encoded.
    """
    raw = os.fsencode(source)
    return os.fsdecode(b"".join(b"%%%02x" % b if b in _SPECIAL else bytes((b,)) for b in raw))


def is_mount_of(mount: Mount, source: str) -> bool:
    """Whether *mount*, a FUSE filesystem, is a bindfs mount of *source*.

    bindfs before 1.14.9 replaces our ``fsname`` by the resolved path of the source, unless that
    contains a blank or a comma. Before 1.18.2 it sets no subtype of its own.
    """
    if mount.fstype not in ("fuse", "fuse.bindfs"):
        return False
    return mount.source in (fsname(source), source, os.path.realpath(source))


def allows_other(mount: Mount) -> bool:
    """Whether other users have access to *mount*."""
    return ALLOW_OTHER in mount.super_options
