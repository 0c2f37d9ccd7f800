"""Which device, subvolume or dataset the root is, and how it is mounted: the one answer for all
verbs. The mount there now is ``Machine.root_mount``; the boot asks its kernel command line
alone (``hooks.cmdline``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.machine import fstab
from ephemeroot.machine.facts import Machine, command_line
from ephemeroot.machine.fstab import FstabLine


@dataclass(frozen=True, slots=True)
class Root:
    """The root as the next boot will find it, as far as the machine tells.

    ``device`` and ``subvolume`` are the configuration's, else the kernel command line's, else
    those of /etc/fstab; ``subvolume`` has no slashes around it. ``argument`` is ``root=`` and
    ``flags`` are ``rootflags=`` of the command line that counts most, word for word.
    """

    device: str | None
    subvolume: str | None
    argument: str | None
    flags: tuple[str, ...]

    @classmethod
    def named(
        cls, machine: Machine, device: str | None = None, subvolume: str | None = None
    ) -> Root:
        """What *machine* boots; *device* and *subvolume* are what the configuration says."""
        lines = [command_line(text) for _, text in machine.command_lines]
        in_fstab = fstab_lines(machine)
        devices = [device, *(line.root_device() for line in lines)]
        devices += [line.device for line in in_fstab]
        flags = [line.root_flags() for line in lines]
        options = [*flags, *(list(line.options) for line in in_fstab)]
        subvolumes = [subvolume, *(fstab.option(one, "subvol") for one in options)]
        return cls(
            device=next(filter(None, devices), None),
            subvolume=next(filter(None, ((one or "").strip("/") for one in subvolumes)), None),
            argument=next(filter(None, (line.get("root") for line in lines)), None),
            flags=tuple(next(iter(flags), [])),
        )


def fstab_lines(machine: Machine) -> list[FstabLine]:
    """The lines of *machine*'s fstab for its root."""
    return [line for line in machine.fstab if line.mount_point == "/"]
