"""``ephemeroot adopt``: copy live data into the store and declare it while the machine runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ephemeroot import terminal
from ephemeroot.adopt import drop_in, writers
from ephemeroot.adopt.adopter import Adopter, is_ephemeral
from ephemeroot.adopt.writers import Writer
from ephemeroot.cli import access, apply, output
from ephemeroot.cli.progress import Progress
from ephemeroot.config import Machine, read
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.execution import DRY_RUN, Execution, Result
from ephemeroot.linux.copying import Copier
from ephemeroot.old_roots import histories
from ephemeroot.plan import labelled, lock


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the store and /etc/ephemeroot; with --apply the files that apply opens")
    parser.add_argument("path", nargs="+", metavar="PATH", help="a directory or file of the root")
    parser.add_argument("--store", metavar="PATH", help="the store (default: the first)")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace the store's version with the root's; the old version is kept aside",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="run 'ephemeroot apply' afterwards; without it the next boot does not bind the path",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--yes", action="store_true", help="do not ask, even if programs are writing to the path"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: all files are in the store; 10: some are not, or changed during the copy."""
    if arguments.config is not None:
        raise Misconfigured(
            f"adopt declares paths in /{drop_in.FOLDER}, which --config {arguments.config} does "
            "not include",
            "omit --config, or declare the paths in that file and run 'ephemeroot apply'",
        )
    if arguments.apply and arguments.json:
        raise Misconfigured(
            "cannot combine --apply with --json", "run 'ephemeroot apply --json' afterwards"
        )
    root = Path(arguments.root)
    machine = Machine.of(arguments.root)
    if "" in arguments.path:
        raise Misconfigured("a PATH is empty", "name files or directories of the root")
    with lock.hold(root, "ephemeroot adopt", dry_run=arguments.dry_run):
        adopter = Adopter(
            root,
            read(machine),
            machine,
            [os.path.abspath(p) if arguments.root == "/" else p for p in arguments.path],
            store=arguments.store,
            replace=arguments.replace,
        )
        held = {one.path: writers.below(os.path.realpath(root / one.path.lstrip("/")))
                for one in adopter.adoptions}  # fmt: skip
        if not arguments.json:
            _show(adopter, held)
        with labelled.new(adopter.after, dry_run=arguments.dry_run):
            results = [] if arguments.dry_run else _adopt(arguments, adopter, held)
    if arguments.json:
        _print_json(adopter, held, results)
    elif results:
        _conclude(adopter, held, root)
    code = output.PARTLY if any(one.problems for one in adopter.adoptions) else 0
    return _apply(arguments, adopter) or code


def _apply(arguments: argparse.Namespace, adopter: Adopter) -> int:
    """Apply the configuration if the user wants that; returns the exit code. The lock must be free:
    ``apply`` takes it.
    """
    declared = any(one.declare for one in adopter.adoptions)
    if arguments.dry_run:
        if arguments.apply:
            terminal.say(f"then apply the configuration: {DRY_RUN}")
        return 0
    wanted = arguments.apply
    if declared and not (wanted or arguments.yes or arguments.json):
        wanted = _wants("The next boot binds it only after 'ephemeroot apply'. Apply now?")
    if not wanted:
        if declared and not arguments.json:
            terminal.say(
                "run 'ephemeroot apply' to rebuild the images, so that the next boot binds it"
            )
        return 0
    return apply.run(
        argparse.Namespace(
            root=arguments.root,
            config=None,
            json=False,
            dry_run=False,
            yes=True,
            no_images=arguments.root != "/",
        )
    )


def _wants(question: str) -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        histories.confirm(question)
    except EphemerootError:
        return False
    return True


def _show(adopter: Adopter, held: dict[str, list[Writer]]) -> None:
    for line in adopter.settled:
        terminal.say(line)
    for one in adopter.adoptions:
        terminal.say(one.describe())
        for writer in held[one.path]:
            terminal.warning(
                str(writer),
                "stop it first: the copy may be inconsistent, and later writes go to the root",
            )


def _adopt(
    arguments: argparse.Namespace, adopter: Adopter, held: dict[str, list[Writer]]
) -> list[Result]:
    if any(held.values()) and not arguments.yes:
        histories.confirm("Copy it anyway?")
    adopter.forget_ended()
    execution = Execution()
    for one in adopter.adoptions:
        one.bind = is_ephemeral(Path(arguments.root))
        with Progress(f"copying {one.path}", one.size) as bar:

            def update(copier: Copier, name: str, bar: Progress = bar) -> None:
                bar.update(copier.copied + copier.shared, name)

            one.progress = update
            result = execution.one(one)
        if not arguments.json:
            terminal.say(f"adopted {one.path}: {result.outcome}")
    return execution.results


def _conclude(adopter: Adopter, held: dict[str, list[Writer]], root: Path) -> None:
    for one in adopter.adoptions:
        for note in one.notes:
            terminal.say(note)
        for problem in one.problems:
            terminal.warning(problem)
    units = sorted({w.unit for found in held.values() for w in found if w.unit})
    if units:
        terminal.say(
            "these units still write to the old files of the root; run 'systemctl restart "
            f"{' '.join(units)}'"
        )
    if any(one.declare for one in adopter.adoptions):
        terminal.say(f"declared in {drop_in.place(root)[0]}")
    if not is_ephemeral(root):
        terminal.say(
            "the root's files stay in use until the first ephemeral boot; to copy later changes, "
            "run 'ephemeroot adopt --replace' before it"
        )


def _print_json(adopter: Adopter, held: dict[str, list[Writer]], results: list[Result]) -> None:
    done: dict[str, Any] = {result.line: result.outcome for result in results}
    content = {
        "settled": adopter.settled,
        "adoptions": [
            {
                "path": one.path,
                "store": one.store,
                "bytes": one.size,
                "declared": one.declare is not None,
                "result": done.get(one.describe()),
                "notes": one.notes,
                "problems": one.problems,
                "writers": [str(writer) for writer in held[one.path]],
            }
            for one in adopter.adoptions
        ],
    }
    output.print_json("adopt", content)
