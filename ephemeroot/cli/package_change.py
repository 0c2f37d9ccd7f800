"""``ephemeroot package-change``: called by package managers before and after a transaction."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ephemeroot import backends, terminal
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
        help="before: check whether a transaction may begin; after: report its changes; "
        "unattended: check whether automatic upgrades may begin; base: repeat the changes in the "
        "base",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit code 10 if the transaction must be made in the base, else 0.

    Package managers call this: errors are only warnings here, and never end a transaction.
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
        terminal.warning(f"cannot compare the packages of the root and the base: {error}")
    return 0


def _policy(arguments: argparse.Namespace) -> str:
    """The configured policy; ``off`` in a base, and on a root that no boot makes fresh."""
    root = Path(arguments.root)
    if os.environ.get(IN_BASE) or os.environ.get(package_changes.ALLOW) == "allow":
        return "off"
    plan = applied.load(root)
    wipe = plan.root_wipe() if plan is not None else None
    if wipe is None or foreign.of_boot(root) is not None:
        return "off"
    machine = Machine.of(arguments.root)
    if not backends.of(wipe.load()).forgets(machine.root_mount):
        return "off"
    return read(machine, arguments.config).on_package_change


def _before(policy: str) -> int:
    if policy != "redirect":
        return 0
    terminal.error(
        "cannot change packages of the running root: the next boot would forget the change "
        '(on-package-change = "redirect")',
        "run 'ephemeroot install PACKAGE', 'ephemeroot remove PACKAGE' or 'ephemeroot upgrade'",
    )
    return REFUSED


def _unattended(policy: str) -> int:
    """systemd skips a unit whose ExecCondition= ends with a code of 1 to 254."""
    if policy not in ("redirect", "both"):
        return 0
    terminal.say(f"{UPGRADE_UNIT} upgrades the base instead of the running root")
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
        # Without a base, the next boot forgets the change in any case.
        line = f"ephemeroot: the next boot forgets this change of packages ({error.message})"
        _say(f"{line}: {error.hint}" if error.hint else line)
        return
    if arguments.json:
        output.print_json("package-change", {"packages": package_record.to_json(found)})
        return
    line = f"ephemeroot: {package_record.describe(found)}"
    if found and policy == "both":
        _say(f"{line}; {UNIT} repeats the change in the base")
        _start(UNIT)
    elif found:
        _say(f"{line}: {'; '.join(package_record.commands(found))}")


def _repeat(arguments: argparse.Namespace) -> int:
    """Repeat the changes of the running root in the base. Returns the exit code of the first
    failed command, else 0.
    """
    for verb, names in package_record.orders(package_record.read(Path(arguments.root))):
        status = subprocess.run([sys.argv[0], verb, "--yes", *names], check=False).returncode
        if status:
            return status
    return 0


def _say(line: str) -> None:
    """Print to the terminal, because a package manager may capture standard output."""
    with suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal_:
        terminal_.write(f"{line}\n")
        return
    sys.stderr.write(f"{line}\n")


def _start(unit: str) -> None:
    subprocess.run(["systemctl", "start", "--no-block", unit], check=False)
