"""How verbs show their steps: before, in a dry run, and while they are carried out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from ephemeroot import terminal
from ephemeroot.execution import DRY_RUN, Execution, Result
from ephemeroot.step import Step


def show(steps: Iterable[Step]) -> None:
    """Print the steps, before any of them is executed."""
    sys.stdout.write(terminal.heading("to be done:") + "\n")
    for step in steps:
        terminal.say(f"  {step.describe()}")


def with_results(
    *, dry_run: bool, quiet: bool, before_line: Callable[[], None] = lambda: None
) -> Execution:
    """What carries out steps that were shown before: a line says what each came to, unless *quiet*,
    after *before_line*. A failure is always said. Nothing is printed in a dry run.
    """

    def tell(result: Result) -> None:
        if dry_run:
            return
        before_line()
        if result.failed:
            terminal.error(result.problem)
        elif not quiet:
            terminal.say(f"{result.line}: {result.words}")

    return Execution(tell, dry_run=dry_run)


def one_by_one(
    *, dry_run: bool, quiet: bool, before_line: Callable[[], None] = lambda: None
) -> Execution:
    """What carries out steps and prints the line of each as soon as it was done, after
    *before_line*, unless *quiet*. The verb reports failures at its end.
    """

    def tell(result: Result) -> None:
        if quiet or result.failed:
            return
        before_line()
        say(result.line, dry_run=dry_run)

    return Execution(tell, dry_run=dry_run)


def announced(lines: list[str], *, dry_run: bool, quiet: bool) -> Execution:
    """What carries out steps and prints the line of each before it is done, unless *quiet*: some
    take long. *lines* gets all of them. The verb reports failures at its end.
    """

    def note(step: Step) -> None:
        lines.append(step.describe())
        if not quiet:
            say(lines[-1], dry_run=dry_run)

    def tell(result: Result) -> None:
        if result.is_dry_run:
            note(result.step)

    return Execution(tell, dry_run=dry_run, before=note)


def say(line: str, *, dry_run: bool) -> None:
    """Print the *line* of a step that was done or, in a dry run, is not."""
    terminal.say(f"{line}: {DRY_RUN}" if dry_run else line)
