"""``ephemeroot roots restore``: restore files from an old root."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ephemeroot import terminal
from ephemeroot.cli import output, steps
from ephemeroot.cli.progress import Progress
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.execution import Result
from ephemeroot.linux import subvolume
from ephemeroot.linux.layers import Layers
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.labelling import Labelling
from ephemeroot.machine.labels import Labels
from ephemeroot.old_roots import histories, persisted, restore_steps, two_roots
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.old_roots.restore_steps import Restoration
from ephemeroot.old_roots.restoring import Plan
from ephemeroot.old_roots.two_roots import Tree
from ephemeroot.wipers.history import History
from ephemeroot.wipers.oldroot import OldRoot

HELP = "restore files and directories of an old root"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the action's own arguments."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="the files and directories to restore"
    )
    parser.add_argument(
        "--from", dest="name", required=True, metavar="NAME", help="the old root to restore from"
    )
    parser.add_argument(
        "--to", metavar="DIR", help="restore into this directory (default: the original place)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files that differ, even if they are newer",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: all paths are restored; 10: only some; 1: no path."""
    wanted = [os.path.normpath(os.path.join(os.getcwd(), path)) for path in arguments.paths]
    # POSIX allows two slashes at the beginning of a path; here they are the same as one.
    wanted = ["/" + path.lstrip("/") for path in wanted]
    keeper = _keeper(arguments, wanted)
    declared = histories.applied_plan(arguments.root).declared()
    with Namespace() as private, ExitStack() as trees:
        with keeper.history(private) as history:
            entry = history.find(arguments.name)
            old = two_roots.attached(private, entry.label, history.mount(entry))
            tree = trees.enter_context(old)
            layers = _layers(history, entry, private, trees)
        target = trees.enter_context(_target(arguments, keeper))
        restore = _Restore(arguments, keeper, tree, target, declared, Plan(layers=layers))
        for path in wanted:
            restore.plan_one(path)
        return restore.carry_out()


def _keeper(arguments: argparse.Namespace, wanted: list[str]) -> Keeper:
    """The root or volume of the old root: that of --volume, else the innermost that contains all
    paths.
    """
    if arguments.volume:
        return histories.keepers(arguments.root, arguments.volume)[0]
    everything = histories.keepers(arguments.root)
    fitting = [
        keeper
        for keeper in everything
        if all(persisted.below(path, keeper.target) is not None for path in wanted)
    ]
    if not fitting:
        raise Misconfigured(
            "no root or volume with old roots contains all of these paths",
            "name only paths of one root or volume",
        )
    return max(fitting, key=lambda keeper: len(keeper.target))


def _layers(
    history: History, entry: OldRoot, private: Namespace, trees: ExitStack
) -> Layers | None:
    """The two directories of an old root that is an overlay, open until the end of *trees*."""
    upper = history.open_layer(entry)
    if upper < 0:
        return None
    trees.callback(os.close, upper)
    base = two_roots.attached(private, "the installed root", history.mount_base())
    lower = trees.enter_context(base).fd
    return Layers(upper, lower) if lower is not None else None


@contextmanager
def _target(arguments: argparse.Namespace, keeper: Keeper) -> Iterator[Tree]:
    """The open target directory: that of --to, or the present root with all its mounts."""
    where = arguments.to or keeper.live
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Tree(where, fd)
    finally:
        os.close(fd)


@dataclass
class _Restore:
    """One run of ``roots restore``."""

    arguments: argparse.Namespace
    keeper: Keeper
    tree: Tree
    target: Tree
    declared: dict[str, str]
    plan: Plan = field(default_factory=Plan)
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def plan_one(self, path: str) -> None:
        """Plan the steps for *path*."""
        relative = persisted.below(path, self.keeper.target)
        if relative is None:
            raise Misconfigured(
                f"{path} is not in {self.keeper.target}", "name another volume with --volume"
            )
        old, new = self.tree.fd, self.target.fd
        if old is None or new is None:
            raise EphemerootError(f"cannot open {self.tree.name}")
        source = restore_steps.locate(old, relative, path)
        if self.arguments.to:
            name = os.path.basename(path)
            shown = os.path.join(self.arguments.to, name)
            if not name or any(s.target.shown == shown for s in self.plan.steps):
                raise Misconfigured(
                    f"cannot restore two paths as {shown}"
                    if name
                    else "cannot restore / with --to",
                    "restore them one at a time, into different directories"
                    if name
                    else "name the paths below /",
                )
            target = restore_steps.Place(new, f"/{name}", shown)
        else:
            target = restore_steps.locate(new, relative, path)
            self._note(path)
        if source.status() is None:
            place = persisted.covering(path, self.declared)
            raise Misconfigured(
                f"{path} is not in the old root {self.tree.name}",
                f"{place[0]} persists: its content is in the store {place[1]}, not in old roots"
                if place
                else f"run 'ephemeroot roots diff {self.tree.name}' to see the differences",
            )
        inside = (persisted.below(p, self.keeper.target) for p in self.declared)
        self.plan.add(
            source,
            target,
            overwrite=self.arguments.overwrite,
            skip={p for p in inside if p is not None},
        )

    def _note(self, path: str) -> None:
        place = persisted.covering(path, self.declared)
        if place is not None:
            line = f"{place[0]} persists in {place[1]}: restored files survive the next boot"
            hint = (
                "an old root has only files that the bind hides, or files from before the "
                "declaration"
            )
            self.notes.append((line, hint))
        elif self.keeper.target == "/":
            self.notes.append((
                f"{path} does not persist: the next boot forgets it again",
                f"run 'ephemeroot adopt {path}' to keep it",
            ))  # fmt: skip

    def carry_out(self) -> int:
        """Execute the steps, or print them in a dry run; return the exit code."""
        with Progress("restoring", self.plan.size) as progress:
            so_far = 0

            def report(size: int, name: str) -> None:
                nonlocal so_far
                so_far += size
                progress.update(so_far, name)

            for step in self.plan.steps:
                step.progress = report
            execution = steps.one_by_one(
                dry_run=self.arguments.dry_run,
                quiet=self.arguments.json,
                before_line=progress.clear,
            )
            results = execution.run(self.plan.steps)
            if not self.arguments.dry_run:
                self._label(results)
        for result in results:
            self._take(result)
        return self._finish(sum(not result.failed for result in results))

    def _label(self, results: list[Result]) -> None:
        """Give new directories, and content that is restored elsewhere, the labels of the place."""
        labels = Labels.of(self.arguments.root)
        if not labels.are_known or self.target.fd is None:
            return
        where = os.path.realpath(self.arguments.to) if self.arguments.to else self.keeper.target
        labelling = Labelling(labels, self.target.fd, where)
        for result in results:
            step = result.step
            if not result.failed and isinstance(step, Restoration):
                labelling.moved(step.target.path.strip("/"), step.source.shown)

    def _take(self, result: Result) -> None:
        step = result.step
        assert isinstance(step, Restoration)
        if isinstance(result.error, FileExistsError):
            self.plan.kept.append((step.target.shown, "another program has just created it"))
            return
        if result.failed:
            self.problems.append(result.problem)
            return
        self.lines.append(result.line)
        if isinstance(step, restore_steps.Copy):
            self.problems += [f"{path} is not restored: {why}" for path, why in step.left_out]
            if step.flattened:
                self.notes.append((subvolume.flattened(step.flattened, step.target.shown), ""))

    def _finish(self, done: int) -> int:
        kept = self.plan.kept
        if self.arguments.json:
            self._print_json()
        else:
            for path, reason in kept:
                is_final = "now:" in reason or "socket" in reason
                hint = "" if is_final else "add --overwrite to replace it"
                terminal.warning(f"{path} is not restored: {reason}", hint)
            if not self.plan.steps and not kept:
                terminal.say("nothing to restore: all files are identical")
            for line, hint in self.notes if self.plan.steps else ():
                terminal.warning(line, hint)
        for problem in self.problems:
            terminal.error(problem)
        if not kept and not self.problems:
            return 0
        return output.PARTLY if done or self.plan.same else output.FAILED

    def _print_json(self) -> None:
        content = {
            "from": self.tree.name,
            "dry-run": self.arguments.dry_run,
            "changes": self.lines,
            "kept": [{"path": path, "reason": reason} for path, reason in self.plan.kept],
            "same": self.plan.same,
            "problems": self.problems,
        }
        output.print_json("roots-restore", content)
