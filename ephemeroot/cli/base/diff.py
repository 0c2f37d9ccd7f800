"""``ephemeroot base diff``: the differences between an old base and the base."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass

from ephemeroot import terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.base import package_managers
from ephemeroot.cli import bases, diff, differences, output
from ephemeroot.cli.bases import BasedMachine
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import two_roots
from ephemeroot.old_roots.comparison import Difference
from ephemeroot.old_roots.two_roots import Tree


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the action's own arguments."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME",
        help="the old base to compare with, a name from 'base list' (default: the newest)",
    )  # fmt: skip
    diff.add_common(parser)
    parser.set_defaults(paged=True)


@dataclass
class Compared:
    """The differences between the old base ``old`` and the base ``new``.

    ``packages`` maps a name to its versions before and after; ``None`` means not installed.
    """

    old: str
    new: str
    packages: dict[str, tuple[str | None, str | None]]
    files: list[Difference]
    problems: list[str]


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 10 if some files could not be compared."""
    with Namespace() as private, BasedMachine.of(arguments).opened(private) as place:
        compared = compare(arguments, place)
    if arguments.json:
        output.print_json("base", {
            "old": compared.old,
            "new": compared.new,
            "packages": [
                {"name": name, "before": before, "after": after}
                for name, (before, after) in compared.packages.items()
            ],
            "differences": differences.to_json(compared.files),
            "problems": compared.problems,
        })  # fmt: skip
    else:
        show(arguments, compared)
        for problem in compared.problems:
            terminal.warning(f"not compared: {problem}")
    return output.PARTLY if compared.problems else 0


def compare(arguments: argparse.Namespace, place: Bases) -> Compared:
    """Compare the two bases. Raises ``EphemerootError`` if one of them is missing."""
    entry = place.find(arguments.name) if arguments.name else bases.newest_old(place)
    if entry is None:
        raise Misconfigured(
            "cannot compare: there is no old base", "run 'ephemeroot base list' to see the bases"
        )
    with ExitStack() as stack:
        new = place.present()
        if new < 0:
            raise Misconfigured(f"the base {place.name} is missing", "run 'ephemeroot base create'")
        stack.callback(os.close, new)
        old = place.open(entry)
        stack.callback(os.close, old)
        trees = Tree(entry.label, old), Tree(place.name, new)
        comparison = two_roots.prepare(
            None,
            trees,
            patterns=two_roots.patterns(arguments.exclude, everything=arguments.all),
            content=arguments.content,
        )
        comparison.related = True
        problems: list[str] = []
        packages = _packages(old, new, problems)
        files = two_roots.run(comparison, *trees)
        return Compared(entry.label, place.name, packages, files, problems + comparison.problems)


def _packages(old: int, new: int, problems: list[str]) -> dict[str, tuple[str | None, str | None]]:
    """Packages whose versions differ; empty without a known package manager."""
    # The process of the package manager can open these paths too.
    roots = [f"/proc/{os.getpid()}/fd/{fd}" for fd in (old, new)]
    try:
        manager = package_managers.of(roots[1])
    except EphemerootError:
        return {}
    try:
        before, after = (manager.installed(root) for root in roots)
    except EphemerootError as error:
        problems.append(str(error.message))
        return {}
    return package_managers.changed(before, after)


def show(arguments: argparse.Namespace, compared: Compared) -> None:
    """Print the differences for people."""
    if not compared.packages and not compared.files:
        terminal.say(f"{compared.old} and {compared.new} do not differ")
        return
    terminal.say(f"from {compared.old} to {compared.new}:")
    if compared.packages:
        terminal.say()
        title = terminal.count(len(compared.packages), "package", "packages")
        terminal.say(terminal.heading(title))
        most = len(compared.packages) if arguments.long else diff.MOST
        rows = [
            [name, before or "(not installed)", "→", after or "(removed)"]
            for name, (before, after) in compared.packages.items()
        ]
        terminal.table(rows[:most])
        if len(rows) > most:
            terminal.say(f"  and {len(rows) - most} more (--long shows all)")
    if compared.files:
        terminal.say()
        differences.show(compared.files, most=None if arguments.long else diff.MOST)
        terminal.say()
        terminal.say(differences.summary(compared.files))
