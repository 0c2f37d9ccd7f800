"""Which kernels a root has modules for: asked by the proof at boot and by what changes a base."""

from __future__ import annotations

import errno
import os

from ephemeroot.linux import paths

PLACES = ("/usr/lib/modules", "/lib/modules")
"""Where modprobe(8) looks; the second is a link to the first where /usr is merged."""


def releases(root: int) -> set[str]:
    """The releases, as ``uname -r`` prints them, that the open tree *root* has modules for.

    Links are resolved inside *root*; any mount in it counts. Raises ``OSError``.
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
