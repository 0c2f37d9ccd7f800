"""Initramfs images: made by the system's own dracut in a chroot of it, or changed without
dracut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vm import cpio
from vm.cache import Cache, digest
from vm.command import CommandFailed
from vm.layer import Content
from vm.system import System

# Made for this machine's disk and filesystem only: half the size, and less work for udev. Not
# compressed: QEMU loads it in no time, while unpacking costs the guest seconds.
DRACUT = (
    "--hostonly",
    "--no-hostonly-cmdline",
    "--no-hostonly-i18n",
    "--no-early-microcode",
    "--filesystems",
    "btrfs",
    "--add-drivers",
    "virtio_blk btrfs",
    "--add",
    "btrfs vm-harness",
    "--no-compress",
)


def make(
    cache: Cache, system: System, arguments: Sequence[str] = (), options: Sequence[str] = DRACUT
) -> Path:
    """The image that the system's dracut makes with `options` and `arguments`, if it is not in the
    cache.

    dracut's output is beside it in `dracut.log`. Raises CommandFailed.
    """
    words = [*options, *arguments]

    def build(folder: Path) -> None:
        command = ["dracut", "--force", *words, "/run/results/initrd", system.release]
        script = 'exec "$@" > /run/results/dracut.log 2>&1'
        try:
            system.run(cache, "sh", "-c", script, "dracut", *command, results=folder)
        except CommandFailed as error:
            log = folder / "dracut.log"
            said = log.read_text(errors="replace") if log.exists() else ""
            raise CommandFailed(error.argv, error.status, error.output + said) from error

    return (
        cache.entry("initramfs", digest(Path(__file__), system.key, words), build, keep=40)
        / "initrd"
    )


def overlay(initrd: Path, members: Mapping[str, Content | cpio.Link], target: Path) -> Path:
    """Write to `target` the image `initrd` with those files added or replaced; return `target`.

    No dracut runs, so this takes no time. Names must not contain links (`usr/lib/x`, not `lib/x`).
    """
    base = initrd.read_bytes()
    # Archives start at multiples of 4, the kernel skips zeros between them.
    target.write_bytes(base + b"\0" * (-len(base) % 4) + cpio.archive(members))
    return target
