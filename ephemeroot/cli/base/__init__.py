"""``ephemeroot base``: manage the base, of which every new root is a copy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ephemeroot import terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.base import boot_filesystems, change
from ephemeroot.base.work import Order
from ephemeroot.cli import access, bases, output
from ephemeroot.cli.arguments import add_common
from ephemeroot.cli.base import commit, diff, listing
from ephemeroot.cli.bases import BasedMachine
from ephemeroot.errors import Misconfigured
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories
from ephemeroot.plan import lock
from ephemeroot.wipers.contract import Outcome
from ephemeroot.wipers.oldroot import OldRoot


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = _action(actions, "create", "make the first base, a copy of the running root")
    run_ = _action(actions, "run", "run a command in a copy of the base, which then replaces it")
    shown = _action(actions, "list", "show the base and the bases that it replaced")
    back = _action(actions, "rollback", "replace the base with an old base")
    run_.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="the command (default: a shell)",
    )
    merge = _action(actions, "commit", "copy changes of the running root into the base")
    commit.configure(merge)
    compared = _action(actions, "diff", "show the differences between an old base and the base")
    diff.configure(compared)
    back.add_argument(
        "name", nargs="?", metavar="NAME", help="a name from 'base list' (default: the newest)"
    )
    for one in (create, run_, merge, back):
        one.add_argument("--dry-run", action="store_true", help="only print what would be done")
    for one in (shown, compared):
        access.declare(one, access.NOTHING)
    for one in (create, merge, back):
        access.declare(one, "the filesystem of the base")
    access.declare(
        run_, "the filesystem of the base, and for the command all mounts of this machine"
    )
    for one in (run_, merge, back):
        one.add_argument("--yes", action="store_true", help="do not ask")


def _action(actions: Any, name: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=help, description=help)
    add_common(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: done; 1: the command failed, and the base is unchanged; 3: another run holds the
    lock; 10: the base was replaced, but another part of the run failed; 130: interrupted.
    """
    if arguments.action == "list":
        based = BasedMachine.of(arguments)
        with Namespace() as private, based.opened(private) as place:
            listing.show(arguments, place)
        return 0
    if arguments.action == "diff":
        return diff.run(arguments)
    verb = f"ephemeroot base {arguments.action}"
    if arguments.action in ("run", "commit"):
        bases.require_this_machine(arguments.root)
    if arguments.action == "run" and access.may_write(arguments):
        boot_filesystems.trigger()
    lines: list[str] = []
    left: list[tuple[str, str]] = []
    with lock.hold(Path(arguments.root), verb, dry_run=arguments.dry_run):
        based = BasedMachine.of(arguments)
        with Namespace() as private, based.opened(private) as place:
            if access.may_write(arguments):
                change.recover(place, terminal.say)
            if arguments.action == "commit":
                committed = commit.commit(arguments, based, place, bases.log(arguments, lines))
                outcome, left = committed.outcome, committed.left
                if committed.asked and not arguments.dry_run:
                    return max(output.PARTLY, _finish(arguments, lines, outcome, left))
            else:
                outcome = _change(arguments, based, place, lines)
    return _finish(arguments, lines, outcome, left)


def _change(
    arguments: argparse.Namespace, based: BasedMachine, place: Bases, lines: list[str]
) -> Outcome | None:
    """Change the base. Returns the outcome; ``None`` if the base is unchanged."""

    log = bases.log(arguments, lines)
    if arguments.action == "create":
        return change.create(place, log, dry_run=arguments.dry_run, kept=based.kept())
    if arguments.action == "rollback":
        entry = _entry(place, arguments.name)
        if not arguments.dry_run and not arguments.yes:
            histories.confirm(f"Replace the present base with {entry.label}?")
        return change.rollback(place, entry, log, dry_run=arguments.dry_run)
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if arguments.dry_run:
        return bases.foresee(place, " ".join(words) or "a shell", log)
    if not words and not sys.stdin.isatty():
        raise Misconfigured(
            "cannot start a shell without a terminal", "run 'ephemeroot base run -- COMMAND'"
        )

    def confirm() -> None:
        if not arguments.yes:
            histories.confirm("Make this the base?")

    # The output of the command must not get into the JSON document.
    stdout = sys.stderr.fileno() if arguments.json else None
    return change.run(
        place,
        Order(words or None, confirm, bases.ask(arguments, "base run"), stdout, based.kept()),
        log,
    )


def _entry(place: Bases, name: str | None) -> OldRoot:
    if name is not None:
        return place.find(name)
    newest = bases.newest_old(place)
    if newest is None:
        raise Misconfigured(
            "cannot roll back: there is no old base", "run 'ephemeroot base list' to see the bases"
        )
    return newest


def _finish(
    arguments: argparse.Namespace,
    lines: list[str],
    outcome: Outcome | None,
    left: list[tuple[str, str]],
) -> int:
    problems = outcome.problems if outcome is not None else []
    if arguments.json:
        output.print_json("base", {
            "dry-run": arguments.dry_run,
            "changed": outcome is not None,
            "changes": lines,
            "retired": outcome.retired if outcome is not None else None,
            "problems": problems,
            **_left(arguments, left),
        })  # fmt: skip
    for line in problems:
        terminal.error(line)
    if outcome is not None and not arguments.dry_run and not arguments.json:
        terminal.say("done: the next root is a copy of the new base")
    return output.PARTLY if problems else 0


def _left(arguments: argparse.Namespace, left: list[tuple[str, str]]) -> dict[str, Any]:
    if arguments.action != "commit":
        return {}
    return {"left": [{"path": path, "reason": reason} for path, reason in left]}
