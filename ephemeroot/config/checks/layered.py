"""Warnings for a root with a layer above the installed root.

Swap files do not work in an overlay, and upgrades have no effect after the next boot.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence

from ephemeroot.config import volumes
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, Volume
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.machine import files, swap
from ephemeroot.machine.facts import Machine

_WANTS = "etc/systemd/system/*.wants"

# Timers that install upgrades automatically if they are enabled: dnf-automatic(8), dnf5's automatic
# plug-in, transactional-update(8).
_TIMERS = ("dnf-automatic.timer", "dnf-automatic-install.timer", "dnf5-automatic.timer",
           "transactional-update.timer")  # fmt: skip

# Debian's timer is always enabled, and follows apt's configuration (apt.systemd.daily).
_APT = re.compile(r'^\s*APT::Periodic::Unattended-Upgrade\s+"(?!0")[^"]+"', re.MULTILINE)


def advise(
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Add warnings to *problems*."""
    wiping = config.wiping
    if wiping is None or wiping.plugin is None or machine.another:
        return
    wiper = wiping.plugin.wiper
    if not (wiper.MOUNTS_ROOT and wiper.ON_DEVICE):
        return
    problems += [
        Problem(
            machine.show("/etc/fstab"),
            "",
            f"the swap file {path} is on the root, but an overlay does not support swap files",
            "run 'ephemeroot init' to print the commands that move it",
            warning=True,
        )
        for path in _swap_files(machine, mounted)
    ]
    if not any(one.path == "/usr" for one in declared):
        problems += [_upgrades(wiping.origin.place, name) for name in _upgraders(machine)]


def _upgrades(place: Place, name: str) -> Problem:
    return Problem.at(
        place,
        f"{name} installs upgrades automatically, into a layer that the next boot forgets",
        "disable it; for upgrades, run 'ephemeroot next-boot keep' and reboot into the installed "
        "root",
        warning=True,
    )


def _swap_files(machine: Machine, mounted: Sequence[Volume]) -> Iterator[str]:
    try:
        root = os.open(machine.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        found = swap.files(root)
    finally:
        os.close(root)
    for path in found:
        volume = volumes.covering(path, mounted)
        if volume is None or not volume.persists:
            yield path


def _upgraders(machine: Machine) -> Iterator[str]:
    for name in _TIMERS:
        if glob.glob(f"{_WANTS}/{name}", root_dir=machine.root):
            yield name
    for file in sorted(glob.glob("etc/apt/apt.conf.d/*", root_dir=machine.root)):
        if _APT.search(files.read_text(machine.root, f"/{file}", []) or ""):
            yield f"unattended-upgrades ({machine.show(f'/{file}')})"
            return
