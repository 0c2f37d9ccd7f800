"""The output of steps: before a run, in a dry run, and during a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from ephemeroot import terminal
from ephemeroot.execution import DRY_RUN, Execution, Result
from ephemeroot.step import Step


def show(steps: Iterable[Step]) -> None:
    """Print the steps before they are executed."""
    sys.stdout.write(terminal.heading("steps:") + "\n")
    for step in steps:
        terminal.say(f"  {step.describe()}")


def with_results(
    *, dry_run: bool, quiet: bool, before_line: Callable[[], None] = lambda: None
) -> Execution:
    """An execution of steps that ``show`` has printed. It prints the outcome of each, unless
    *quiet*, and each failure. *before_line* is called before each line. A dry run prints nothing.
    """

    def report(result: Result) -> None:
        if dry_run:
            return
        before_line()
        if result.failed:
            terminal.error(result.problem)
        elif not quiet:
            terminal.say(f"{result.line}: {result.outcome}")

    return Execution(report, dry_run=dry_run)


def one_by_one(
    *, dry_run: bool, quiet: bool, before_line: Callable[[], None] = lambda: None
) -> Execution:
    """An execution that prints the description of each step after the step, unless *quiet*.
    *before_line* is called before each line. The verb reports failures at its end.
    """

    def report(result: Result) -> None:
        if quiet or result.failed:
            return
        before_line()
        say(result.line, dry_run=dry_run)

    return Execution(report, dry_run=dry_run)


def announced(lines: list[str], *, dry_run: bool, quiet: bool) -> Execution:
    """An execution that prints the description of each step before the step, unless *quiet*: some
    steps take long. *lines* gets all descriptions. The verb reports failures at its end.
    """

    def announce(step: Step) -> None:
        lines.append(step.describe())
        if not quiet:
            say(lines[-1], dry_run=dry_run)

    def announce_only(result: Result) -> None:
        if result.is_dry_run:
            announce(result.step)

    return Execution(announce_only, dry_run=dry_run, on_start=announce)


def say(line: str, *, dry_run: bool) -> None:
    """Print the *line* of a step, marked in a dry run."""
    terminal.say(f"{line}: {DRY_RUN}" if dry_run else line)
