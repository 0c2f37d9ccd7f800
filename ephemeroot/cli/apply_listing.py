"""What ``ephemeroot apply`` prints: what changes, what is to be done, what was done."""

from __future__ import annotations

import sys

from ephemeroot import terminal
from ephemeroot.cli import output
from ephemeroot.config.checks import store_refusals
from ephemeroot.plan.seeds import Seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.apply.application import Application
    from ephemeroot.apply.step import Result, Step


def show(application: Application, steps: list[Step]) -> None:
    """The changes and the steps, before anything is done."""
    for problem in application.compilation.warnings:
        # A marker that is missing is what apply is about to write.
        if not store_refusals.is_about_no_marker(problem):
            terminal.warning(f"{problem.place}: {problem.reason}", problem.hint)
    changes = application.changes()
    if changes:
        sys.stdout.write(terminal.heading(f"changes since {application.since}:") + "\n")
        for line in changes:
            terminal.say(f"  {line}")
    else:
        terminal.say(f"no changes since {application.since}")
    for path, store in application.forgotten():
        terminal.warning(
            f"{path} persists no longer: the next root has what its base has",
            f"its content stays in the store, in {store}{path}",
        )
    if application.seeds:
        sys.stdout.write(terminal.heading("to be taken over from this root:") + "\n")
        for seed in application.seeds:
            terminal.say(f"  {seed.describe()}")
    sys.stdout.write(terminal.heading("to be done:") + "\n")
    for step in steps:
        terminal.say(f"  {step.line}")


def conclude(application: Application, results: list[Result]) -> None:
    """What it comes to."""
    count = sum(result.step.image for result in results)
    if count:
        terminal.say(
            f"done: {terminal.count(count, 'image')} of generation "
            f"{application.generation} read back; the next boot follows it"
        )
    elif application.old and application.old.generation == application.generation:
        terminal.say("done, the images are as they were")
    else:
        terminal.say("done, without images: until they are rebuilt, no boot wipes")


def _seed(seed: Seed) -> dict[str, object]:
    return {
        "path": seed.path,
        "store": seed.store,
        "bytes": seed.size,
        "shared": seed.shared,
        "refusal": seed.refusal or None,
    }


def print_json(application: Application, results: list[Result]) -> None:
    """Everything, for programs."""
    content = {
        "generation": application.generation,
        "since": application.since,
        "changes": application.changes(),
        "no-longer-persisted": [path for path, _ in application.forgotten()],
        "seeds": [_seed(seed) for seed in application.seeds],
        "steps": [result.as_json() for result in results],
    }
    output.print_json("apply", content)
