"""``ephemeroot apply``: make the next boots follow the configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ephemeroot import amounts, terminal
from ephemeroot.apply.application import Application
from ephemeroot.base import cut_off, equivalence
from ephemeroot.cli import access, output, steps
from ephemeroot.config import Machine, read
from ephemeroot.config.checks import store_refusals
from ephemeroot.errors import Damaged
from ephemeroot.execution import Result
from ephemeroot.image.steps import Rebuilding
from ephemeroot.old_roots import histories
from ephemeroot.plan import labelled, lock
from ephemeroot.plan.seeds import Seed
from ephemeroot.step import Step


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(
        parser,
        "/etc/ephemeroot, the stores, the directories of the images, the filesystem of the base",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="do not rebuild the images; until they are rebuilt, no boot wipes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: all images are rebuilt and verified; 10: some images could not be rebuilt."""
    root = Path(arguments.root)
    with lock.hold(root, "ephemeroot apply", dry_run=arguments.dry_run):
        if not arguments.dry_run:
            _end_base_run(arguments)
        machine = Machine.of(arguments.root)
        application = Application(root, read(machine, arguments.config), machine)
        todo = application.steps(images=not arguments.no_images)
        if not arguments.json:
            _show(application, todo)
        if not arguments.dry_run or not arguments.json:
            application.require_seeds()
        if not arguments.dry_run:
            _ask(arguments, application)
        execution = steps.with_results(dry_run=arguments.dry_run, quiet=arguments.json)
        with labelled.new(application.examination, dry_run=arguments.dry_run):
            results = execution.run(todo)
    if arguments.json:
        _print_json(application, results)
    if execution.failed or arguments.dry_run:
        return output.PARTLY if execution.failed else 0
    if not arguments.json:
        _conclude(application, results)
    return 0


def _end_base_run(arguments: argparse.Namespace) -> None:
    try:
        cut_off.end(arguments.root, terminal.warning if arguments.json else terminal.say)
    except Damaged:
        return  # the applied plan is damaged: Application reports and replaces it


def _ask(arguments: argparse.Namespace, application: Application) -> None:
    """Ask for confirmation. Raises ``Misconfigured`` without a terminal, ``EphemerootError`` if the
    answer is "no".
    """
    if arguments.yes:
        return
    wiped = [wipe.target for wipe in application.compilation.plan.wipes()]
    what = f"The next boot wipes {' and '.join(wiped)}" if wiped else "The next boot wipes nothing"
    histories.confirm(f"{what}. Apply?")


def _show(application: Application, todo: list[Step]) -> None:
    """Print the changes and the steps before the first step."""
    # apply writes missing markers.
    warnings = application.compilation.warnings
    shown = (one for one in warnings if not store_refusals.is_about_no_marker(one))
    terminal.problems(shown, sys.stderr)
    if equivalence.is_forgotten(application.examination):
        stores = amounts.listed(list(application.stores))
        terminal.warning(equivalence.FORGOTTEN.format(stores), equivalence.FORGOTTEN_HINT)
    changes = application.changes()
    if changes:
        sys.stdout.write(terminal.heading(f"changes since {application.since}:") + "\n")
        for line in changes:
            terminal.say(f"  {line}")
    else:
        terminal.say(f"no changes since {application.since}")
    for path, store in application.forgotten():
        terminal.warning(
            f"{path} no longer persists: the next root has the version of its base",
            f"the persistent version stays in the store, as {store}{path}",
        )
    if application.seeds:
        sys.stdout.write(terminal.heading("the next boot seeds from this root:") + "\n")
        for seed in application.seeds:
            terminal.say(f"  {seed.describe()}")
    steps.show(todo)


def _conclude(application: Application, results: list[Result]) -> None:
    """Print the result of the run."""
    count = sum(isinstance(result.step, Rebuilding) for result in results)
    if count:
        terminal.say(
            f"done: {terminal.count(count, 'image')} rebuilt and verified; the next boot follows "
            f"generation {application.generation}"
        )
    elif application.old and application.old.generation == application.generation:
        terminal.say("done: the images are unchanged")
    else:
        terminal.say("done, without the images: no boot wipes until they are rebuilt")


def _seed(seed: Seed) -> dict[str, object]:
    return {
        "path": seed.path,
        "store": seed.store,
        "bytes": seed.size,
        "shared": seed.shared,
        "refusal": seed.refusal or None,
    }


def _print_json(application: Application, results: list[Result]) -> None:
    """Print the changes, the seeds and the steps as JSON."""
    content = {
        "generation": application.generation,
        "since": application.since,
        "changes": application.changes(),
        "no-longer-persisted": [path for path, _ in application.forgotten()],
        "seeds": [_seed(seed) for seed in application.seeds],
        "steps": [result.as_json() for result in results],
    }
    output.print_json("apply", content)
