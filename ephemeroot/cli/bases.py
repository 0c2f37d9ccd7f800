"""Shared code of the verbs that change the base: the open base, the questions, the lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ephemeroot import terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.base import change, opening
from ephemeroot.cli import access, steps
from ephemeroot.config import Configuration, InvalidConfiguration, Machine, read
from ephemeroot.errors import Refused
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine import files
from ephemeroot.old_roots import histories
from ephemeroot.wipers.contract import Outcome
from ephemeroot.wipers.oldroot import OldRoot


@dataclass(frozen=True, slots=True)
class BasedMachine:
    """A machine and its configuration, read once for a run on the base."""

    machine: Machine
    configuration: Configuration
    writable: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> BasedMachine:
        """Read the configuration. The base will be writable if the verb may write. Raises
        ``InvalidConfiguration``.
        """
        machine = Machine.of(arguments.root)
        configuration = read(machine, arguments.config)
        if any(not problem.warning for problem in configuration.problems):
            raise InvalidConfiguration(configuration.problems)
        return cls(machine, configuration, access.may_write(arguments))

    def opened(self, private: Namespace) -> AbstractContextManager[Bases]:
        """The bases of the configured root. Raises ``Misconfigured`` if the wiper has none."""
        return opening.opened(self.machine, self.configuration, private, writable=self.writable)

    def kept(self) -> frozenset[str]:
        """The paths that a new root does not take from the base: declared paths, stores, volumes
        and mount points.
        """
        return opening.kept(self.machine, self.configuration)


def require_this_machine(root: str) -> None:
    """Raise ``Refused`` for a machine below a directory: a command in its base would get the mounts
    of this one, /boot among them.
    """
    if not files.is_this_machine(root):
        raise Refused(
            f"no command can run in the base of the machine at {root}: it would see the /boot of "
            "this machine",
            f"use chroot(8) on {root} before 'ephemeroot --root {root} base create', or boot it",
        )


def newest_old(place: Bases) -> OldRoot | None:
    """The most recently replaced base; ``None`` if there is none."""
    found = [one for one in place.old() if one.name is not None and not one.name.unused]
    return max(found, key=lambda one: one.serial, default=None)


def log(arguments: argparse.Namespace, lines: list[str]) -> Callable[[str], None]:
    """A function that prints a line of a change and adds it to *lines*."""

    def say(line: str) -> None:
        lines.append(line)
        if not arguments.json:
            steps.say(line, dry_run=arguments.dry_run)

    return say


def ask(arguments: argparse.Namespace, verb: str) -> Callable[[str, str], None]:
    """A function that asks whether to use a new base despite a problem (``Order.ask``). *verb* is
    the running command.
    """

    def decide(message: str, hint: str) -> None:
        if arguments.yes:
            terminal.warning(message, hint)
        elif not sys.stdin.isatty():
            raise Refused(message, f"{hint}; or run 'ephemeroot {verb} --yes' to use it anyway")
        else:
            histories.confirm("Use this base anyway?", [message, hint])

    return decide


def foresee(place: Bases, command: str, say: Callable[[str], None]) -> Outcome:
    """The dry run of *command* in a copy of the base. Raises the errors with which the run would
    begin.
    """
    change.foresee(place)
    say(f"run {command} in a copy of {place.name}")
    return place.replace(lambda path: None, say, dry_run=True)
