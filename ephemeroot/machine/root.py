"""The root's device, subvolume or dataset, and its mount options, determined here for all verbs.
The present mount is ``Machine.root_mount``; the boot uses only its kernel command line
(``hooks.cmdline``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.machine import fstab
from ephemeroot.machine.facts import Machine, command_line
from ephemeroot.machine.fstab import FstabLine


@dataclass(frozen=True, slots=True)
class Root:
    """The root of the next boot, as far as it is known.

    ``device`` and ``subvolume`` are from the configuration, else from the kernel command line, else
    from /etc/fstab; ``subvolume`` has no slashes around it. ``argument`` is ``root=`` and ``flags``
    are ``rootflags=`` of the command line with the highest precedence, unchanged.
    """

    device: str | None
    subvolume: str | None
    argument: str | None
    flags: tuple[str, ...]

    @classmethod
    def named(
        cls, machine: Machine, device: str | None = None, subvolume: str | None = None
    ) -> Root:
        """The root of *machine*; *device* and *subvolume* are from the configuration."""
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
