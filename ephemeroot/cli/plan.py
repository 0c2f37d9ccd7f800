"""``ephemeroot plan``: what a boot will do, step by step, and where each step comes from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ephemeroot.cli import terminal
from ephemeroot.compile import Compilation, compile_machine
from ephemeroot.config import Machine, Place, read
from ephemeroot.hooks.operation import Operation

NAME = "plan"
HELP = "show what a boot will do, and where each step was declared"

WIDEST = 100
"""Columns up to which steps are padded, so that one long step does not push all places away."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; with ``--json``, exactly as it is put into an image."""
    machine = Machine.of(arguments.root)
    compilation = compile_machine(read(machine, arguments.config), machine)
    if arguments.json:
        sys.stdout.write(compilation.plan.dump().decode())
        return 0
    _print(compilation)
    for problem in compilation.warnings:
        terminal.warning(f"{problem.place}: {problem.reason}", problem.hint)
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


def _print_stage(operations: Sequence[Operation], places: Sequence[Place], width: int) -> None:
    if not operations:
        terminal.say("  (nothing)")
    for operation, place in zip(operations, places, strict=True):
        line = terminal.printable(operation.describe())
        terminal.say(f"  {line:<{width}}  {place}")
