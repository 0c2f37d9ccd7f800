"""Subvolumes in a root: a snapshot of it has an empty directory instead of each."""

from __future__ import annotations

import os

from ephemeroot.linux import paths
from ephemeroot.wipers.btrfs import subvolumes


def omitted(root: int) -> list[str]:
    """Those in the open *root*, if it is a subvolume, that have something in them. Nothing is
    missed of one that is a snapshot.
    """
    try:
        subvolumes.filesystem(root)
    except OSError:  # another filesystem
        return []
    if not subvolumes.is_subvolume(root):
        return []
    found = []
    for path, _ in sorted(subvolumes.nested(root, subvolumes.identify(root).id)):
        inner = subvolumes.open_directory(root, path)
        try:
            if paths.names(inner) and not subvolumes.is_read_only(inner):
                found.append(path)
        finally:
            os.close(inner)
    return found
