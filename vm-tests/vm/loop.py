"""Image files as block devices of this host, and mounts of them, for the duration of a `with`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import loop_device
from vm import folders
from vm.cache import Cache
from vm.command import Unavailable, run


def require() -> None:
    """Raises Unavailable if this host cannot make loop devices."""
    if os.geteuid() != 0:
        raise Unavailable("loop devices need root: run as root")
    if not Path("/dev/loop-control").exists():
        raise Unavailable(
            "no /dev/loop-control: modprobe loop, or run on a host (not in a container) that has it"
        )


@contextmanager
def attached(image: Path, offset: int = 0, *, partitions: bool = False) -> Iterator[Path]:
    """The loop device over `image` from that byte on; it is detached at the end, and never belongs
    to another process. With `partitions` its partitions are devices, too (/dev/loop0p1).
    """
    require()
    with loop_device.attached(image, offset, partitions=partitions) as path:
        if partitions:  # not every kernel reads partition tables
            run(["partx", "--update", path])
        yield path


@contextmanager
def _one_mount() -> Iterator[None]:
    """Only one process of this host mounts at a time. The disks of many machines have one UUID, and
    while one is being mounted another can be refused (fs/btrfs/volumes.c, device_list_add).
    """
    root = Cache.from_environment().root
    root.mkdir(parents=True, exist_ok=True)
    fd = os.open(root / "mounting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def mount(device: Path, folder: Path, kind: str, options: str) -> None:
    """Mount the loop device at that folder; empty options are the kernel's. Raises CommandFailed.

    The only way in which the harness mounts a disk of a machine.
    """
    with _one_mount():
        run(["mount", "-t", kind, "-o", options or "rw", device, folder])


@contextmanager
def mounted(
    image: Path, kind: str = "btrfs", options: str = "subvolid=5", offset: int = 0
) -> Iterator[Path]:
    """The filesystem of `image`, mounted in a private folder; for btrfs its top level.

    The machine that uses the image must be off. Raises CommandFailed.
    """
    with folders.temporary("vm-disk-") as folder:
        with attached(image, offset) as device:
            mount(device, folder, kind, options)
            # The device now exists until it is unmounted, which happens with the end of the mount
            # namespace of this run even if the run is killed.
        try:
            yield folder
        finally:
            run(["umount", folder])
