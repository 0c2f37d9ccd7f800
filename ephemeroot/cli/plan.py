"""``ephemeroot plan``: the steps of a boot, and the place where each is declared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ephemeroot import terminal
from ephemeroot.cli import access
from ephemeroot.config import Configuration, Place, hosts, read
from ephemeroot.hooks import limits
from ephemeroot.hooks.operation import Operation
from ephemeroot.plan.compile import Compilation, compile_machine

WIDEST = 100
"""The width to which steps are padded; a longer step does not move the column of the places."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, access.NOTHING)
    hosts.configure(parser)
    parser.set_defaults(paged=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; with ``--json``, the document that an image contains."""
    machine = hosts.machine(arguments)
    config = read(machine, arguments.config)
    compilation = compile_machine(config, machine)
    if arguments.json:
        sys.stdout.write(compilation.plan.dump().decode())
        return 0
    for line in hosts.describe(config, machine):
        terminal.say(line)
    _print(compilation)
    _print_settings(config)
    terminal.problems(compilation.warnings, sys.stderr)
    return 0


def _print(compilation: Compilation) -> None:
    plan = compilation.plan
    stages = (
        ("before the root is mounted", plan.wipe, compilation.wipe_places),
        ("under the new root", plan.persist, compilation.persist_places),
    )
    lines = [terminal.printable(o.describe()) for _, operations, _ in stages for o in operations]
    width = max((len(line) for line in lines if len(line) <= WIDEST), default=0)
    for title, operations, places in stages:
        sys.stdout.write(terminal.heading(f"{title}:") + "\n")
        _print_stage(operations, places, width)
    failures = ", ".join(f"{kind}: {policy}" for kind, policy in plan.on_failure.items())
    terminal.say(f"on failure: {failures}")
    terminal.say(f"seeding, copying, comparing: {limits.describe(plan.seed_limit)}")


def _print_settings(config: Configuration) -> None:
    """Print the settings from drop-ins, which the steps do not show."""
    if not config.set_by_drop_ins:
        return
    sys.stdout.write(terminal.heading("set by drop-ins:") + "\n")
    keys = [place.key for place, _ in config.set_by_drop_ins]
    width = max(len(key) for key in keys)
    for key, (place, older) in zip(keys, config.set_by_drop_ins, strict=True):
        instead = f", instead of {_where(older[-1])}" if older else ""
        terminal.say(f"  {key:<{width}}  {_where(place)}{instead}")


def _where(place: Place) -> str:
    return place.file if place.line is None else f"{place.file}:{place.line}"


def _print_stage(operations: Sequence[Operation], places: Sequence[Place], width: int) -> None:
    if not operations:
        terminal.say("  (nothing)")
    for operation, place in zip(operations, places, strict=True):
        line = terminal.printable(operation.describe())
        terminal.say(f"  {line:<{width}}  {place}")
