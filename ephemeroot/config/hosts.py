"""The configuration of another host from the same set of files."""

from __future__ import annotations

import argparse

from ephemeroot.config import Configuration, Machine
from ephemeroot.machine.facts import parse_id


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name the other host."""
    group = parser.add_argument_group(
        "for another host, with the accounts and the fstab of this machine"
    )
    group.add_argument("--host", metavar="NAME", help="use the configuration of the host NAME")
    group.add_argument(
        "--machine-id", metavar="ID", help="use the configuration of the machine with this id"
    )


def machine(arguments: argparse.Namespace) -> Machine:
    """This machine, or the named one. Raises ``Misconfigured``."""
    identity = None if arguments.machine_id is None else parse_id(arguments.machine_id)
    return Machine.of(arguments.root).as_another(arguments.host, identity)


def describe(config: Configuration, machine: Machine) -> list[str]:
    """The files for *machine*, and those for other machines; empty if all are for this machine."""
    if not config.elsewhere and not machine.another:
        return []
    name = machine.host_name or "an unknown host name"
    identity = machine.machine_id or "an unknown machine id"
    lines = [f"for {name} ({identity}):", *(f"  {path}" for path in config.files)]
    if config.elsewhere:
        lines += ["for other machines:", *(f"  {path}" for path in config.elsewhere)]
    return lines
