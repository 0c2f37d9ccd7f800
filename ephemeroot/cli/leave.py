"""``ephemeroot leave``: copy the declared paths back into the root, and disarm the boot."""

from __future__ import annotations

import argparse
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.base import cut_off, equivalence
from ephemeroot.cli import access, output, steps
from ephemeroot.cli.progress import Progress
from ephemeroot.config import Examination, Machine, examine, read
from ephemeroot.errors import Misconfigured
from ephemeroot.execution import Action, Result
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.generators import installed
from ephemeroot.image.steps import Rebuilding
from ephemeroot.leave import completion, room
from ephemeroot.leave.completion import Finish
from ephemeroot.leave.leaving import Leaving, with_adopted
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories
from ephemeroot.plan import applied, labelled, lock
from ephemeroot.plan.compile import compile_examination
from ephemeroot.step import Step


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(
        parser, "the root, the stores, the directories of the images, the filesystem of the base"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="do not rebuild the images; they stay installed, but are disarmed",
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="copy later changes (called by ephemeroot-leave.service)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: done; 1: failed, and not disarmed; 10: disarmed, but an image is not rebuilt, or
    a user's file is not copied.
    """
    root = Path(arguments.root)
    if arguments.finish:
        with lock.hold(root, "ephemeroot leave --finish", wait=terminal.warning):
            return _finish(arguments, root)
    bar = Progress("copying back", None)
    with lock.hold(root, "ephemeroot leave", dry_run=arguments.dry_run):
        if not arguments.dry_run:
            cut_off.end(arguments.root, terminal.warning if arguments.json else terminal.say)
        plan = applied.load(root)
        if plan is None:
            return _nothing_to_leave(arguments, root)
        examination, plan = _configured(arguments, root, plan)
        leaving = Leaving(root, plan)
        leaving.copier.progress = lambda name: bar.update(
            leaving.copier.copied + leaving.copier.shared, name
        )
        leaving.prove()
        policy = equivalence.steps(examination, add=False) if examination else []
        todo = _steps(leaving, root, policy, images=not arguments.no_images)
        room.require(leaving, root)
        if not arguments.json:
            steps.show(todo)
        if not arguments.dry_run and not arguments.yes:
            histories.confirm("Copy everything back into the root, and disarm the boot?")
        execution = steps.with_results(
            dry_run=arguments.dry_run, quiet=arguments.json, before_line=bar.clear
        )
        with labelled.new(examination, dry_run=arguments.dry_run):
            results = execution.run(todo)
    if arguments.json:
        _print_json(results, **{"left-out": leaving.left_out})
    elif not arguments.dry_run:
        terminal.say(
            "done: the next boot does not wipe; reboot soon, because only that boot copies the "
            "changes made until then"
        )
        for line in leaving.left_out:
            terminal.warning(line, "copy it from the store by hand")
    return output.PARTLY if execution.failed or leaving.left_out else 0


def _configured(
    arguments: argparse.Namespace, root: Path, plan: Plan
) -> tuple[Examination | None, Plan]:
    """The configuration, and *plan* with adopted paths that are not applied. A configuration with
    errors is ignored: it must not prevent leaving.
    """
    try:
        machine = Machine.of(arguments.root)
        examination = examine(read(machine, arguments.config), machine)
        configured = compile_examination(examination).plan
    except Misconfigured as error:
        terminal.warning(
            f"the configuration is ignored: {error.message}", "run 'ephemeroot check' for details"
        )
        return None, plan
    return examination, with_adopted(root, plan, configured)


def _nothing_to_leave(arguments: argparse.Namespace, root: Path) -> int:
    if completion.read(root) is not None:
        if arguments.json:
            _print_json([])
            return 0
        terminal.say("already copied back and disarmed; the next boot copies later changes")
        return 0
    raise Misconfigured("no plan is applied on this machine: nothing to leave")


def _steps(leaving: Leaving, root: Path, policy: list[Step], *, images: bool) -> list[Step]:
    todo: list[Step] = [
        *leaving.items(),
        Action("disarm the boot: no image wipes or binds", leaving.disarm),
        *policy,
    ]
    if not images:
        return todo
    if root != Path("/"):
        raise Misconfigured(
            "cannot build images with --root, only on the machine itself", "add --no-images"
        )
    for generator in installed.set_up():
        todo += [Rebuilding(image, None) for image in generator.images(root)[0]]
    return todo


def _finish(arguments: argparse.Namespace, root: Path) -> int:
    with Namespace() as private:
        finish = Finish(root, Path(private.directory()))
        was_left = finish.run(_discard if arguments.json else terminal.say)
    if arguments.json:
        _print_json(
            [], left=was_left, changes=finish.changed, kept=finish.kept, problems=finish.problems
        )
        return output.PARTLY if finish.problems else 0
    if not was_left:
        terminal.say("nothing to finish: 'ephemeroot leave' was not run on this root")
        return 0
    for path in finish.kept:
        terminal.warning(
            f"{path} was changed in the root and in the store: the root's version is kept",
            "compare it with the version in the store",
        )
    for problem in finish.problems:
        terminal.warning(f"not copied back: {problem}", "copy it from the store by hand")
    copied = terminal.count(finish.changed, "later change")
    terminal.say(f"done: {copied} copied back; the stores are unchanged")
    return output.PARTLY if finish.problems else 0


def _discard(line: str) -> None:
    """Print nothing: the JSON document has the numbers."""


def _print_json(results: list[Result], **more: object) -> None:
    content = {
        "steps": [result.as_json() for result in results],
        **more,
    }
    output.print_json("leave", content)
