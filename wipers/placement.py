"""Putting mounts where they belong, for wipers that mount the root themselves."""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import mounts


class Places:
    """Mounts on directories below *private*; ``close`` takes all of them away again.

    Mounts that are in use elsewhere stay there: a copy that became the root, the layers
    of an overlay.
    """

    __slots__ = ("_mounted", "private")

    def __init__(self, private: str) -> None:
        self.private = private
        self._mounted: list[str] = []

    def attach(self, mount: int, name: str) -> str:
        """Attach the detached *mount* at the directory *name*, and close it; return its path."""
        path = f"{self.private}/{name}"
        try:
            os.makedirs(path, 0o700, exist_ok=True)
        except BaseException:
            os.close(mount)
            raise
        mounts.attach_at(mount, path)
        self._mounted.append(path)
        return path

    def close(self) -> None:
        """Unmount everything, the newest first."""
        while self._mounted:
            mounts.detach(self._mounted.pop())


def put_in_place(private: str, mount_point: str) -> None:
    """Attach a copy of the mount at *private* at *mount_point*.

    A copy: a mount in a shared parent cannot be moved (move_mount(2)). Raises
    ``EphemerootError`` if something is mounted on the target.
    """
    if os.path.ismount(mount_point):
        raise EphemerootError(f"another filesystem is already mounted at {mount_point}")
    mounts.attach_at(mounts.clone_at(private), mount_point)
