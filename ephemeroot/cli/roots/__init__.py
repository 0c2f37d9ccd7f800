"""``ephemeroot roots``: list, inspect, restore, keep and delete the old roots."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ephemeroot import terminal
from ephemeroot.cli import access, diff, output, steps
from ephemeroot.cli.arguments import add_common
from ephemeroot.cli.roots import listing, look, restore
from ephemeroot.errors import Misconfigured
from ephemeroot.hooks.guards import clock
from ephemeroot.hooks.omission import Omission
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.plan import foreign
from ephemeroot.status import omissions
from ephemeroot.step import Step
from ephemeroot.wipers import changes, pruning
from ephemeroot.wipers.changes import Claim, Deletion
from ephemeroot.wipers.history import History
from ephemeroot.wipers.oldroot import RECIPE
from ephemeroot.wipers.pruning import Clock, Pruning

_NOTHING = "no wiper of this machine keeps old roots"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = _action(
        actions, "list", "show every old root, when it is deleted, and foreign entries"
    )
    show = _action(actions, "show", "show the details of this old root")
    compare = _action(actions, "diff", "show the differences between two old roots")
    compare.add_argument("name", metavar="NAME", help="the first old root")
    compare.add_argument("other", nargs="?", metavar="NAME2", help="another old root")
    compare.add_argument(
        "--live", action="store_true", help="compare with the present root (the default)"
    )
    diff.add_common(compare)
    mount = _action(actions, "mount", "mount this old root read-only; unmount it with 'umount'")
    restored = _action(actions, "restore", restore.HELP)
    restore.configure(restored)
    prune = _action(actions, "prune", "delete the old roots that are due")
    prune.add_argument(
        "--recipe-names",
        action="store_true",
        help="include the old roots of the well-known shell recipe, whatever their age",
    )
    claim = _action(
        actions, "claim", "claim the old roots of the previous system after a reinstallation"
    )
    delete = _action(actions, "delete", "delete this old root, whatever its age")
    keep = _action(actions, "keep", "never prune this old root")
    unkeep = _action(actions, "unkeep", "let this old root be pruned again")
    for one in (show, mount, delete, keep, unkeep):
        one.add_argument("name", metavar="NAME", help="a name from 'roots list'")
    mount.add_argument("directory", metavar="DIR", help="an empty directory")
    for one in (mount, prune, claim, delete, keep, unkeep):
        one.add_argument("--dry-run", action="store_true", help="only print what would be done")
    for one in (prune, claim, delete):
        one.add_argument("--yes", action="store_true", help="do not ask")
    for one in (listed, show, compare, mount):
        access.declare(one, access.NOTHING)
    for one in (listed, compare):
        one.set_defaults(paged=True)
    access.declare(restored, "the directories that the paths are restored to")
    for one in (prune, claim, keep):
        access.declare(one, "the filesystem of the old roots")
    for one in (delete, unkeep):
        access.declare(one, "the filesystem of the old roots, and the record in the store")


def _action(actions: Any, name: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=help, description=help)
    parser.add_argument(
        "--volume",
        metavar="MOUNT-POINT",
        help="the old roots of this volume (default: all for list and prune, those of the paths "
        "for restore, those of the root for the others)",
    )
    add_common(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: done; 10: some could not be deleted; 3: a boot or another run holds the lock."""
    elsewhere = {
        "show": look.show,
        "diff": look.compare,
        "mount": look.mount,
        "restore": restore.run,
    }
    if arguments.action in elsewhere:
        return elsewhere[arguments.action](arguments)
    with Namespace() as private:
        if arguments.action == "list":
            return _list(arguments, private)
        if arguments.action == "prune":
            foreign.require_own(Path(arguments.root), "nothing is pruned")
            return _prune(arguments, private)
        if arguments.action == "claim":
            return _claim(arguments, private)
        return _change_one(arguments, private)


def _change_one(arguments: argparse.Namespace, private: Namespace) -> int:
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    recorded = _recorded(arguments, keeper, arguments.name)
    with keeper.history(private, writable=access.may_write(arguments)) as history:
        todo = _changes(history, arguments, known=bool(recorded))
        done = _Done(keeper)
        for change in todo:
            if isinstance(change, Deletion):
                change.prove()
                _ask(arguments, [change])
        if arguments.action != "keep":
            todo += [omissions.Forgetting(Path(arguments.root), one) for one in recorded]
        if todo:
            _carry_out(todo, arguments, done)
            history.commit()
        elif not arguments.json:
            terminal.say(f"{arguments.name}: nothing to change")
    return _finish(arguments, [done])


def _claim(arguments: argparse.Namespace, private: Namespace) -> int:
    """Claim the history for this system, which has its id from ``apply``."""
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    if not keeper.system:
        raise Misconfigured(
            "cannot claim old roots: this system has no id", "run 'ephemeroot apply' first"
        )
    foreign.require_own(Path(arguments.root), "nothing is claimed")
    with keeper.history(private, writable=access.may_write(arguments)) as history:
        done = _Done(keeper)
        if history.owner() != history.system:
            change = Claim(history)
            if not arguments.yes and not arguments.dry_run:
                histories.confirm("Claim the history for this system?", [change.describe()])
            _carry_out([change], arguments, done)
            history.commit()
        elif not arguments.json:
            terminal.say(f"{history.where}: nothing to change")
    return _finish(arguments, [done])


def _changes(history: History, arguments: argparse.Namespace, *, known: bool) -> list[Step]:
    """The requested changes. *known*: a record in a store names the old root, which may be deleted
    already.
    """
    try:
        if arguments.action == "delete":
            return [Deletion(history, history.find(arguments.name), "asked for", recipe=True)]
        change = changes.keep(history, arguments.name, wanted=arguments.action == "keep")
        return [change] if change is not None else []
    except Misconfigured:
        if not known or arguments.action == "keep":
            raise
        return []


def _recorded(arguments: argparse.Namespace, keeper: Keeper, label: str) -> list[Omission]:
    """The records in the stores for which the old root *label* is kept."""
    return omissions.of_root(_omissions(arguments), keeper.target, label)


def _omissions(arguments: argparse.Namespace) -> list[Omission]:
    problems: list[str] = []
    plan = histories.applied_plan(arguments.root)
    found = omissions.read(Path(arguments.root), plan, problems)
    for problem in problems:
        terminal.warning(problem)
    return found


# list


def _list(arguments: argparse.Namespace, private: Namespace) -> int:
    recorded = _omissions(arguments)
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + listing.MEASURING
    for keeper in histories.keepers(arguments.root, arguments.volume):
        with keeper.history(private) as history:
            entries = listing.entries(history, _pruning(history), deadline)
            owner = history.owner() if history.is_anothers else ""
        for entry in entries:
            kept_for = omissions.of_root(recorded, keeper.target, entry["name"])
            entry["kept-for"] = [one.describe() for one in kept_for]
        found.append({
            "target": keeper.target,
            "device": keeper.device,
            "old-roots": history.where,
            "of-another-system": owner or None,
            "entries": entries,
        })  # fmt: skip
    if arguments.json:
        output.print_json("roots", {"histories": found})
        return 0
    if not found:
        terminal.say(_NOTHING)
    for one in found:
        sys.stdout.write(terminal.heading(f"old roots of {one['target']}:") + "\n")
        if one["of-another-system"]:
            terminal.say(
                f"  of another system ({one['of-another-system']}); after a reinstallation, run "
                "'ephemeroot roots claim'"
            )
        listing.show(one["entries"])
    return 0


# prune, delete, keep, unkeep


@dataclass
class _Done:
    """The changes of one run to the history of ``keeper``."""

    keeper: Keeper
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _pruning(history: History) -> Pruning:
    now = Clock(time.time(), synchronised=clock.is_synchronised())
    return pruning.by_settings(history, now)


def _prune(arguments: argparse.Namespace, private: Namespace) -> int:
    done = []
    for keeper in histories.keepers(arguments.root, arguments.volume):
        with keeper.history(private, writable=access.may_write(arguments)) as history:
            done.append(_prune_one(arguments, keeper, history))
    return _finish(arguments, done)


def _prune_one(arguments: argparse.Namespace, keeper: Keeper, history: History) -> _Done:
    if history.is_anothers:
        terminal.warning(
            f"{history.where} is the history of another system: nothing is pruned",
            "run 'ephemeroot roots claim' if it is from before a reinstallation of this system",
        )
        return _Done(keeper)
    pruning = _pruning(history)
    if not pruning.clock.synchronised:
        terminal.warning(
            "the clock is not synchronised: old roots that are due only by their age are kept",
            "run 'ephemeroot roots prune' again when 'timedatectl' shows a synchronised clock",
        )
    done = _Done(keeper)
    recipes: list[Step] = [
        Deletion(history, entry, "of the shell recipe", recipe=True)
        for entry in history.entries()
        if arguments.recipe_names and entry.kind == RECIPE
    ]
    spare: list[Step] = []
    if history.space()[0] < pruning.min_free:
        spare = [*pruning.spare()]
    planned = [*pruning.changes(), *spare, *recipes]
    if arguments.dry_run:
        _carry_out(planned, arguments, done)
        return done
    _ask(arguments, planned)
    _carry_out(recipes, arguments, done)
    result = pruning.run(log=lambda line: _say(arguments, done, line))
    done.problems += result.problems
    history.commit()
    return done


def _ask(arguments: argparse.Namespace, planned: Sequence[Step]) -> None:
    deletions = [change for change in planned if isinstance(change, Deletion)]
    if not deletions or arguments.yes or arguments.dry_run:
        return
    count = terminal.count(len(deletions), "old root")
    histories.confirm(f"Delete {count} permanently?", (change.describe() for change in deletions))


def _carry_out(todo: Sequence[Step], arguments: argparse.Namespace, done: _Done) -> None:
    """Execute all steps, or print the same lines in a dry run. A failure does not end the run."""
    execution = steps.announced(done.lines, dry_run=arguments.dry_run, quiet=arguments.json)
    execution.run(todo)
    done.problems += execution.problems


def _say(arguments: argparse.Namespace, done: _Done, line: str) -> None:
    done.lines.append(line)
    if not arguments.json:
        steps.say(line, dry_run=arguments.dry_run)


def _finish(arguments: argparse.Namespace, done: Sequence[_Done]) -> int:
    if arguments.json:
        output.print_json("roots", {
            "dry-run": bool(arguments.dry_run),
            "histories": [
                {"target": d.keeper.target, "changes": d.lines, "problems": d.problems}
                for d in done
            ],
        })  # fmt: skip
    problems = [line for one in done for line in one.problems]
    for line in problems:
        terminal.error(line, "run 'ephemeroot roots prune' to try again")
    if arguments.action == "prune" and not arguments.json and not any(d.lines for d in done):
        terminal.say("no old root is due" if done else _NOTHING)
    if not problems:
        return 0
    return output.PARTLY if sum(len(d.lines) for d in done) > len(problems) else output.FAILED
