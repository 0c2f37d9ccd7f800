"""``ephemeroot diff``: the changes of this root that the next boot forgets."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from ephemeroot import amounts, terminal
from ephemeroot.cli import access, differences, output
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories, two_roots
from ephemeroot.old_roots.comparison import Difference
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.old_roots.in_effect import NotInEffect
from ephemeroot.old_roots.two_roots import BASE, FRESH
from ephemeroot.status import declared_paths, forgotten, unapplied
from ephemeroot.status.unapplied import HINT

MOST = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, access.NOTHING)
    parser.add_argument(
        "--against",
        metavar="WHAT",
        help="compare with 'fresh', the root at the start of this boot (default), with 'base', the "
        "source of the next root, or with an old root",
    )
    parser.add_argument(
        "--volume", metavar="MOUNT-POINT", default="/", help="compare this volume, not the root"
    )
    parser.add_argument(
        "--lines", action="store_true", help="print only the lines for the configuration"
    )
    add_common(parser)
    parser.set_defaults(paged=True)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every comparison."""
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out matching paths: * within a name, ** across directories",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="include files that every boot creates again (caches, locks, …)",
    )
    parser.add_argument(
        "--content",
        action="store_true",
        help="compare the content of every file, even if size and time are the same",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"show all entries of a directory, not only the first {MOST}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 with and without differences; 10 if some files could not be compared."""
    plan = histories.applied_plan(arguments.root)
    keeper = histories.fresh_at(arguments.root, arguments.volume)
    lost = declared_paths.look(Path(arguments.root))
    with Namespace() as private:
        compared = forgotten.compare(
            plan,
            keeper,
            private,
            lost,
            patterns=two_roots.patterns(arguments.exclude, everything=arguments.all),
            against=arguments.against,
            content=arguments.content,
        )
    if compared.instead:
        terminal.warning(f"{compared.instead}: the base is compared instead")
    which, found, problems = compared.which, compared.differences, compared.problems
    prefix = "" if keeper.target == "/" else keeper.target
    found = [dataclasses.replace(d, path=prefix + d.path) for d in found]
    stores = [store.path for store in plan.stores()]
    waiting = _unapplied(arguments.root, plan)
    declared = (*(one.path for one in lost), *waiting)
    undeclared = [d for d in found if not _is_in(d.path, declared)]
    text = differences.lines(undeclared, stores[0]) if stores else []
    if arguments.json:
        _print_json(keeper, which, found, problems, lost)
    elif arguments.lines:
        sys.stdout.writelines(line + "\n" for line in text)
    else:
        _show(arguments, keeper, which, found, text)
        if pending := [one for one in waiting if any(_is_in(d.path, [one]) for d in found)]:
            terminal.say()
            terminal.say(f"declared but not applied ({HINT}): {amounts.listed(pending)}")
    if not arguments.json:
        declared_paths.warn(lost)
    for problem in problems:
        terminal.warning(f"not compared: {problem}")
    return output.PARTLY if problems else 0


def _unapplied(root: str, plan: Plan) -> list[str]:
    """Declared paths that are not applied; empty if this user may not read the configuration."""
    try:
        return unapplied.look(Path(root), plan).added
    except PermissionError:
        return []


def _is_in(path: str, declared: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in declared)


_WHAT = {FRESH: "the fresh root of this boot", BASE: "the source of fresh roots"}


def _show(
    arguments: argparse.Namespace,
    keeper: Keeper,
    which: str,
    found: Sequence[Difference],
    text: Sequence[str],
) -> None:
    other = _WHAT.get(which, f"the old root {which}")
    if not found:
        terminal.say(f"no non-persistent changes on {keeper.target}, compared with {other}")
        return
    terminal.say(f"non-persistent changes on {keeper.target}, compared with {other}:")
    terminal.say()
    differences.show(found, most=None if arguments.long else MOST)
    terminal.say()
    terminal.say(differences.summary(found))
    if text:
        terminal.say()
        sys.stdout.write(terminal.heading("to keep these files:") + "\n")
        sys.stdout.writelines(line + "\n" for line in text)


def _print_json(
    keeper: Keeper,
    which: str,
    found: Sequence[Difference],
    problems: Sequence[str],
    lost: Sequence[NotInEffect],
) -> None:
    content = {
        "target": keeper.target,
        "against": which,
        "differences": differences.to_json(found),
        "problems": list(problems),
        "not-in-effect": declared_paths.to_json(lost),
    }
    output.print_json("diff", content)
