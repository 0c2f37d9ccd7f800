"""A machine for experiments: Debian with Ephemeroot applied, its serial console on this terminal.

Its root is fresh at every boot; `ephemeroot plan` inside lists the persistent paths. The disk stays
between runs until this checkout changes, so turn the machine off and start it again to see the
effect.

Leave with `poweroff` in the machine, or with Ctrl-A X (cuts the power). Ctrl-A C opens QEMU's
monitor.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from vm import disk, ephemeral, image, initramfs, project
from vm.cache import Cache
from vm.command import CommandFailed, Unavailable
from vm.lock import one_machine
from vm.qemu import Hardware, command_line, kernel_words
from vm.sandbox import enter_private_mounts
from vm.system import System
from vm.tools import Tools, tools

_LEAVE = "leave: `poweroff` inside, or Ctrl-A X to cut the power"
# systemd hands these to agetty and login (systemd.exec(5), CREDENTIALS; agetty(8); login(1))
_LOGIN = ("systemd.set_credential=agetty.autologin:root", "systemd.set_credential=login.noauth:yes")


def open_shell(
    cache: Cache,
    held: Tools,
    system: System,
    initrd: Path,
    layout: disk.Layout,
    *,
    fresh: bool,
    arguments: list[str],
) -> int:
    """Boot that system on a disk of that layout that stays between runs; return QEMU's
    exit status.
    """
    # A disk belongs to the system for which it was made: the store has the ID that its plan
    # requires.
    folder = cache.folder("shell")
    own = disk.Disk(folder / f"{system.key}.raw")
    for other in folder.iterdir():
        if other != own.image or fresh:
            other.unlink()
    if not own.image.exists():
        disk.prepared(cache, layout, held, system).copy(own.image)
    print(f"disk: {own.image} (a new one: --fresh)\n{_LEAVE}\n", file=sys.stderr)
    append = ["console=ttyS0", "panic=-1", "audit=0", "quiet", "vm.interactive", *_LOGIN]
    append += ["root=/dev/vda", "rootflags=subvol=root", "ro", *arguments]
    serial = [
        "-chardev",
        "stdio,id=console,mux=on,signal=off",
        "-serial",
        "chardev:console",
        "-mon",
        "chardev=console",
    ]
    # -nodefaults removes the port, too; the agent waits for one in vain, which does no harm
    start = kernel_words(system.kernel, initrd, append)
    words = command_line(start, [own.image], replace(Hardware(), memory=2048), serial)
    with one_machine(cache):
        return subprocess.run(held.argv(words), check=False).returncode


def main(words: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vm.shell", description=__doc__, epilog=_LEAVE)
    parser.add_argument("--fresh", action="store_true", help="throw the disk of earlier runs away")
    parser.add_argument("--plain", action="store_true", help="the Debian without Ephemeroot")
    parser.add_argument(
        "--append",
        default="",
        metavar="WORDS",
        help="more for the kernel command line (rd.break, ephemeroot=no, …)",
    )
    chosen = parser.parse_args(words)
    try:
        enter_private_mounts()
        cache = Cache.from_environment()
        held = tools(cache)
        system, initrd, layout = _plain(cache) if chosen.plain else _ephemeral(cache)
        return open_shell(
            cache,
            held,
            system,
            initrd,
            layout,
            fresh=chosen.fresh,
            arguments=shlex.split(chosen.append),
        )
    except (Unavailable, CommandFailed, PermissionError) as error:
        print(f"vm.shell: {error}", file=sys.stderr)
        return 1


def _plain(cache: Cache) -> tuple[System, Path, disk.Layout]:
    system = image.debian_system(cache)
    return system, initramfs.make(cache, system), disk.Btrfs()


def _ephemeral(cache: Cache) -> tuple[System, Path, disk.Layout]:
    package = project.debian_package(cache)
    made = ephemeral.make(cache, image.debian_system(cache), package)
    return made.system, made.initrd(cache), made.layout()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
