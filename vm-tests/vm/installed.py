"""An installation on a disk, run on this host: the work of an administrator before a reboot.

Its own programs run in a chroot on the real filesystem, with private mounts and a device of that
UUID: the same view as in the machine, ten times as fast.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vm.cache import Cache
from vm.command import run
from vm.disk import Disk
from vm.loop import attached, mount

_NODES = ("null", "zero", "full", "random", "urandom", "tty")


class Installed:
    """The installation whose root is mounted at `root`; `run` runs a shell command in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a shell command as root in it; return its output.

        Raises AssertionError with the output if it fails and `check` is not False.
        """
        done = subprocess.run(
            ["chroot", self.root, "sh", "-ec", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"},
        )
        if check and done.returncode != 0:
            raise AssertionError(f"exit status {done.returncode}: {command}\n{done.stdout}")
        return done.stdout


@contextmanager
def installed(
    cache: Cache,
    disk: Disk,
    subvolume: str,
    uuid: str,
    cmdline: str,
    kind: str = "btrfs",
    partitions: Mapping[str, int] | None = None,
) -> Iterator[Installed]:
    """The installation in `subvolume` of the btrfs with that `uuid` on `disk`, or on a filesystem
    of another `kind`, as if it ran with the kernel command line `cmdline`. No machine may be using
    the disk. `partitions` has their numbers by the UUIDs of their filesystems, if it has any.
    """
    numbers = partitions or {}
    with (
        cache.scratch("installed") as scratch,
        attached(disk.image, partitions=bool(numbers)) as device,
    ):
        root = scratch / "root"
        root.mkdir()
        devices = {one: Path(f"{device}p{number}") for one, number in numbers.items()}
        devices.setdefault(uuid, device)
        mount(devices[uuid], root, kind, f"subvol={subvolume}" if subvolume else "")
        try:
            _furnish(root, {device, *devices.values()}, devices, scratch, cmdline)
            yield Installed(root)
        finally:
            run(["umount", "--recursive", "--lazy", root])


def _furnish(
    root: Path, nodes: set[Path], devices: Mapping[str, Path], scratch: Path, cmdline: str
) -> None:
    for kind, folder, options in (
        ("proc", "proc", "rw"),
        ("sysfs", "sys", "ro"),
        ("tmpfs", "dev", "mode=0755"),
        ("tmpfs", "run", "mode=0755"),
        ("tmpfs", "tmp", "mode=1777"),
    ):
        run(["mount", "-t", kind, "-o", options, kind, root / folder])
    line = scratch / "cmdline"
    line.write_text(cmdline + "\n")
    run(["mount", "--bind", line, root / "proc/cmdline"])
    dev = root / "dev"
    for name in (*_NODES, *(node.name for node in nodes)):
        status = os.stat(f"/dev/{name}")
        os.mknod(dev / name, status.st_mode, status.st_rdev)
    for name, target in (
        ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"),
    ):  # fmt: skip
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir()
    # Links that udev would make for the devices.
    (dev / "disk/by-uuid").mkdir(parents=True)
    for uuid, device in devices.items():
        (dev / f"disk/by-uuid/{uuid}").symlink_to(f"../../{device.name}")
