"""Looking at what another host would get from the same set of files."""

from __future__ import annotations

import argparse

from ephemeroot.config import Configuration, Machine
from ephemeroot.machine.facts import parse_id


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name the other host."""
    group = parser.add_argument_group(
        "for another host, with the accounts and the fstab of this machine"
    )
    group.add_argument("--host", metavar="NAME", help="the configuration of the host NAME")
    group.add_argument(
        "--machine-id", metavar="ID", help="the configuration of the machine with that id"
    )


def machine(arguments: argparse.Namespace) -> Machine:
    """The machine that is looked at. Raises ``Misconfigured``."""
    identity = None if arguments.machine_id is None else parse_id(arguments.machine_id)
    return Machine.of(arguments.root).as_another(arguments.host, identity)


def describe(config: Configuration, machine: Machine) -> list[str]:
    """Which files count for *machine*, and which are others'; nothing if there is no doubt."""
    if not config.elsewhere and not machine.another:
        return []
    name = machine.host_name or "an unknown host name"
    identity = machine.machine_id or "an unknown machine id"
    lines = [f"for {name} ({identity}):", *(f"  {path}" for path in config.files)]
    if config.elsewhere:
        lines += ["for other machines:", *(f"  {path}" for path in config.elsewhere)]
    return lines
