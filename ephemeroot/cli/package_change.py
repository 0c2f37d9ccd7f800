"""``ephemeroot package-change``: what package managers call before and after a transaction."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.base import package_changes, package_managers, package_record
from ephemeroot.base.command import IN_BASE
from ephemeroot.cli import access, output
from ephemeroot.cli.bases import BasedMachine
from ephemeroot.config import Machine, read
from ephemeroot.errors import EphemerootError
from ephemeroot.linux.namespace import Namespace
from ephemeroot.plan import applied, foreign

REFUSED = 10

UNIT = "ephemeroot-packages.service"
UPGRADE_UNIT = "ephemeroot-upgrade.service"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "/run/ephemeroot")
    parser.add_argument(
        "when", choices=("before", "after", "unattended", "base"),
        help="before: may a transaction begin; after: it has ended; unattended: may automatic "
        "upgrades begin; base: change the packages of the base as the running root's were",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, whatever was found; 10 where the transaction belongs in the base.

    A package manager calls this: what goes wrong here is a warning, and never ends a transaction.
    """
    try:
        policy = _policy(arguments)
        if policy == "off":
            return 0
        if arguments.when == "before":
            return _before(policy)
        if arguments.when == "unattended":
            return _unattended(policy)
        if arguments.when == "base":
            return _repeat(arguments)
        _after(arguments, policy)
    except (EphemerootError, OSError) as error:
        terminal.warning(f"packages of the base were not compared: {error}")
    return 0


def _policy(arguments: argparse.Namespace) -> str:
    """What the configuration says; ``off`` in a base, and where no boot makes the root fresh."""
    root = Path(arguments.root)
    if os.environ.get(IN_BASE) or os.environ.get(package_changes.ALLOW) == "allow":
        return "off"
    plan = applied.load(root)
    if plan is None or plan.root_wipe() is None or foreign.of_boot(root) is not None:
        return "off"
    return read(Machine.of(arguments.root), arguments.config).on_package_change


def _before(policy: str) -> int:
    if policy != "redirect":
        return 0
    terminal.error(
        "packages are changed in the base on this machine: the next boot forgets a change of the "
        'running root (on-package-change = "redirect")',
        "run 'ephemeroot install PACKAGE', 'ephemeroot remove PACKAGE' or 'ephemeroot upgrade'",
    )
    return REFUSED


def _unattended(policy: str) -> int:
    """systemd skips a unit whose ExecCondition= ends with a code of 1 to 254."""
    if policy not in ("redirect", "both"):
        return 0
    terminal.say("upgrade the base instead of the running root")
    _start(UPGRADE_UNIT)
    return REFUSED


def _after(arguments: argparse.Namespace, policy: str) -> None:
    root = Path(arguments.root)
    based = replace(BasedMachine.of(arguments), writable=False)
    try:
        with Namespace() as private, based.opened(private) as place:
            manager = package_managers.of(arguments.root)
            found = package_changes.find(place, manager, root)
    except EphemerootError as error:
        # A root without a base: what is installed in it is gone anyway.
        _say(f"ephemeroot: the next boot forgets this change of packages ({error.message})")
        return
    if arguments.json:
        output.print_json("package-change", {"packages": package_record.to_json(found)})
        return
    line = f"ephemeroot: {package_record.describe(found)}"
    if found and policy == "both":
        _say(f"{line}; {UNIT} brings the base up to date")
        _start(UNIT)
    elif found:
        _say(f"{line}: {'; '.join(package_record.commands(found))}")


def _repeat(arguments: argparse.Namespace) -> int:
    """Do in the base what was done in the running root; the exit code of the first that fails."""
    for verb, names in package_record.orders(package_record.read(Path(arguments.root))):
        status = subprocess.run([sys.argv[0], verb, "--yes", *names], check=False).returncode
        if status:
            return status
    return 0


def _say(line: str) -> None:
    """To the administrator: a package manager may have its own idea of standard output."""
    with suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal_:
        terminal_.write(f"{line}\n")
        return
    sys.stderr.write(f"{line}\n")


def _start(unit: str) -> None:
    subprocess.run(["systemctl", "start", "--no-block", unit], check=False)
