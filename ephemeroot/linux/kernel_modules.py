"""The kernels for which a root has modules, for the proof at boot and for changes of a base."""

from __future__ import annotations

import errno
import os

from ephemeroot.linux import paths

PLACES = ("/usr/lib/modules", "/lib/modules")
"""The directories of modprobe(8); with a merged /usr, the second is a link to the first."""


def releases(root: int) -> set[str]:
    """The kernel releases, as ``uname -r`` prints them, for which the open tree *root* has modules.

    Links are resolved inside *root*, through any mount in it. Raises ``OSError``.
    """
    found: set[str] = set()
    for place in PLACES:
        try:
            fd = paths.open_in_root(root, place, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                continue
            raise
        try:
            with paths.entries(fd) as entries:
                found.update(
                    entry.name
                    for entry in entries
                    if entry.is_dir() and not entry.name.startswith(".")
                )
        finally:
            os.close(fd)
    return found
