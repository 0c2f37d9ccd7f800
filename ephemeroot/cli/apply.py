"""``ephemeroot apply``: from now on the boot does what the configuration says."""

from __future__ import annotations

import argparse
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.apply import step
from ephemeroot.apply.application import Application
from ephemeroot.base import cut_off
from ephemeroot.cli import access, apply_listing, output
from ephemeroot.config import Machine, read
from ephemeroot.errors import Damaged
from ephemeroot.old_roots import histories
from ephemeroot.plan import lock


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(
        parser,
        "/etc/ephemeroot, the stores, the directories of the images, the filesystem of the base",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="leave the images as they are: until they are rebuilt, no boot wipes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: everything was done and read back; 10: some images could not be rebuilt."""
    root = Path(arguments.root)
    with lock.hold(root, "ephemeroot apply", dry_run=arguments.dry_run):
        if not arguments.dry_run:
            _end_base_run(arguments)
        machine = Machine.of(arguments.root)
        application = Application(root, read(machine, arguments.config), machine)
        steps = application.steps(images=not arguments.no_images)
        if not arguments.json:
            apply_listing.show(application, steps)
        if not arguments.dry_run or not arguments.json:
            application.require_seeds()
        if arguments.dry_run:
            results = step.foresee(steps)
        else:
            _ask(arguments, application)
            results = step.execute(steps, quiet=arguments.json)
    if arguments.json:
        apply_listing.print_json(application, results)
    failed = any(result.failed for result in results)
    if failed or arguments.dry_run:
        return output.PARTLY if failed else 0
    if not arguments.json:
        apply_listing.conclude(application, results)
    return 0


def _end_base_run(arguments: argparse.Namespace) -> None:
    try:
        cut_off.end(arguments.root, terminal.warning if arguments.json else terminal.say)
    except Damaged:
        return  # the applied plan: it is reported below, and replaced


def _ask(arguments: argparse.Namespace, application: Application) -> None:
    """Raise ``Misconfigured`` if nobody can be asked, ``EphemerootError`` if the answer is no."""
    if arguments.yes:
        return
    wiped = [wipe.target for wipe in application.compilation.plan.wipes()]
    what = f"the next boot makes {' and '.join(wiped)} fresh" if wiped else "nothing is wiped"
    histories.confirm(f"{what}. Apply?")
