"""``ephemeroot base commit``: copy changes of the running root into the base."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from ephemeroot import terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.base import change
from ephemeroot.base.commit import Commit
from ephemeroot.base.work import Order
from ephemeroot.cli import bases, differences
from ephemeroot.cli.bases import BasedMachine
from ephemeroot.config.syntax import clean
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.execution import Execution, Result
from ephemeroot.old_roots import histories, restore_steps, two_roots
from ephemeroot.old_roots.comparison import ADDED, CHANGED, Difference
from ephemeroot.old_roots.two_roots import Tree
from ephemeroot.wipers.contract import Outcome

_SHOWN = 10
"""The maximum number of warnings about paths that are not committed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the action's own arguments."""
    parser.add_argument(
        "paths", nargs="*", metavar="PATH",
        help="a file, or a directory with its content (default: all changes that 'diff' shows)",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that have changed in the base too"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="leave out matching paths: * within a name, ** across directories",
    )  # fmt: skip


@dataclass
class Committed:
    """The result of a run. ``left`` are pairs of a path and the reason why it is not committed,
    ``asked`` is whether the administrator named one of them or must decide about it.
    """

    outcome: Outcome | None = None
    left: list[tuple[str, str]] = field(default_factory=list)
    asked: bool = False


def commit(
    arguments: argparse.Namespace, based: BasedMachine, place: Bases, log: Callable[[str], None]
) -> Committed:
    """Show the changes, ask for confirmation, and commit them. Raises ``EphemerootError``."""
    with ExitStack() as stack:
        root = _opened(stack, place.running())
        base = _opened(stack, place.present())
        if base < 0:
            raise Misconfigured(f"the base {place.name} is missing", "run 'ephemeroot base create'")
        kept = based.kept()
        wanted = [_located(root, path, kept) for path in arguments.paths]
        fresh = _fresh(stack, place, arguments)
        found, problems = _differences(arguments, kept, place, (fresh, root, base), wanted)
        commit_ = Commit(root, fresh, base, kept.__contains__, overwrite=arguments.overwrite)
        commit_.plan(found)
        named = {path for path, _ in commit_.left if path in wanted}
        committed = Committed(left=commit_.left, asked=bool(commit_.conflicts or named))
        _show(arguments, place, found, commit_, problems)
        if arguments.dry_run:
            Execution(lambda result: log(result.line), dry_run=True).run(commit_.steps)
            change.foresee(place)
            return committed
        if commit_.steps:
            if not arguments.yes:
                histories.confirm(f"Commit this to the base {place.name}?")

            def act(copy: int) -> None:
                commit_.trees.copy = copy

                def warn(result: Result) -> None:
                    for line in result.step.warnings:
                        log(f"warning: {line}")

                Execution(warn, on_start=lambda step: log(step.describe())).run(commit_.steps)

            order = Order(
                None,
                confirm=lambda: None,
                ask=bases.ask(arguments, "base commit"),
                kept=kept,
                name="commit",
                act=act,
            )
            committed.outcome = change.run(place, order, log)
        return committed


def _opened(stack: ExitStack, fd: int) -> int:
    if fd >= 0:
        stack.callback(os.close, fd)
    return fd


def _located(root: int, path: str, kept: frozenset[str]) -> str:
    """*path* in the running root, without symbolic links in it. Raises ``Misconfigured``."""
    absolute = "/" + os.path.normpath(os.path.join(os.getcwd(), path)).lstrip("/")
    found = restore_steps.locate(root, absolute).path
    if found == "/":
        raise Misconfigured(
            "cannot commit / as a path", "run 'ephemeroot base commit' to commit all changes"
        )
    above = found
    while above != "/":
        if above in kept:
            raise Misconfigured(
                f"cannot commit {path}: {above} is not part of the root, but persistent or mounted",
                "name only files of the root itself",
            )
        above = os.path.dirname(above)
    return found


def _fresh(stack: ExitStack, place: Bases, arguments: argparse.Namespace) -> int | None:
    """The open base that the running root was copied from; ``None`` if it is not known. Raises
    ``Misconfigured`` if it is not known and no path is named.
    """
    try:
        fd = place.origin()
        reason = "this root was not made from the base by a boot"
    except EphemerootError as error:
        fd, reason = -1, error.message
    if fd >= 0:
        return _opened(stack, fd)
    if not arguments.paths:
        raise Misconfigured(
            f"{reason}, so changes of the root cannot be distinguished from changes of the base",
            "run 'ephemeroot base commit PATH' to name the paths",
        )
    terminal.warning(f"{reason}: the base is compared instead")
    return None


def _differences(
    arguments: argparse.Namespace,
    kept: frozenset[str],
    place: Bases,
    trees: tuple[int | None, int, int],
    wanted: list[str],
) -> tuple[list[Difference], list[str]]:
    """The changes of the root at and below the *wanted* paths, and the errors of the comparison."""
    fresh, root, base = trees
    old = Tree("the base", base if fresh is None else fresh)
    new = Tree("this root", root)
    comparison = two_roots.prepare(
        None,
        [old, new],
        elsewhere=kept,
        # A named path is compared even if a pattern excludes it by default.
        patterns=two_roots.patterns(arguments.exclude, everything=bool(wanted)),
        changed_since=None if fresh is None else place.changed_since_origin(),
    )
    comparison.related = True
    skip = comparison.skip
    if wanted:
        comparison.skip = lambda path: not _leads(path, wanted) or skip(path)
    found = []
    for one in two_roots.run(comparison, old, new):
        found += [one] if not wanted else _wanted_of(one, wanted, root)
    for path in wanted:
        if not any(clean.is_below(one.path, path) for one in found):
            old_name = "the base" if fresh is None else "the new root at the start of this boot"
            terminal.warning(f"{path} is not committed: it is the same as in {old_name}")
    return found, comparison.problems


def _wanted_of(one: Difference, wanted: list[str], root: int) -> list[Difference]:
    """The part of the difference *one* that is at and below the *wanted* paths: a directory that is
    added or deleted as a whole can be above one of them.
    """
    if any(clean.is_below(one.path, path) for path in wanted):
        return [one]
    found = []
    for path in wanted:
        if one.kind == "directory" and one.change != CHANGED and clean.is_below(path, one.path):
            status = restore_steps.Place(root, path, path).status()
            if (status is not None) == (one.change == ADDED):
                size = status.st_size if status is not None else 0
                found.append(Difference(path, one.change, "file", size))
    return found


def _leads(path: str, wanted: list[str]) -> bool:
    return any(clean.is_below(path, one) or clean.is_below(one, path) for one in wanted)


def _show(
    arguments: argparse.Namespace,
    place: Bases,
    found: list[Difference],
    commit_: Commit,
    problems: list[str],
) -> None:
    """Print the differences, then the paths that are not committed."""
    if not arguments.json:
        if not commit_.steps:
            terminal.say(f"nothing to commit: the base {place.name} has all changes")
        else:
            differences.show(found, most=20)
            terminal.say()
            terminal.say(differences.summary(found))
    for path, reason in commit_.left[:_SHOWN]:
        hint = "add --overwrite to commit it" if path in commit_.conflicts else ""
        terminal.warning(f"{path} is not committed: {reason}", hint)
    if len(commit_.left) > _SHOWN:
        terminal.warning(f"and {len(commit_.left) - _SHOWN} more are not committed")
    for problem in problems:
        terminal.warning(f"not committed: {problem}")
