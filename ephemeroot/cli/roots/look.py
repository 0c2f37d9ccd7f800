"""``ephemeroot roots show``, ``mount`` and ``diff``: inspect old roots."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ephemeroot import amounts, terminal
from ephemeroot.cli import diff, differences, output
from ephemeroot.errors import Misconfigured
from ephemeroot.execution import DRY_RUN
from ephemeroot.linux import mounts, paths
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories, history_size, two_roots
from ephemeroot.status import omissions
from ephemeroot.wipers.marks import BOOT_COMPLETE, NEW
from ephemeroot.wipers.oldroot import Facts, OldRoot
from ephemeroot.wipers.retention import DAWN

_MEASURING = 60  # seconds


# show


def show(arguments: argparse.Namespace) -> int:
    """Print the facts about one old root."""
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    with Namespace() as private, keeper.history(private) as history:
        entry = history.find(arguments.name)
        facts = history.facts(entry)
        if facts.exclusive is None:
            facts.exclusive = history_size.measure(history, entry, time.monotonic() + _MEASURING)
        content = to_json(history.path(entry), entry, facts)
    problems: list[str] = []
    plan = histories.applied_plan(arguments.root)
    recorded = omissions.read(Path(arguments.root), plan, problems)
    kept_for = omissions.of_root(recorded, keeper.target, entry.label)
    content["kept-for"] = [one.describe() for one in kept_for]
    for problem in problems:
        terminal.warning(problem)
    if arguments.json:
        output.print_json("roots-show", {"target": keeper.target, **content})
    else:
        sys.stdout.write(terminal.heading(f"old root {terminal.printable(entry.label)}") + "\n")
        terminal.table(rows(content, entry, facts))
    return 0


def to_json(path: str, entry: OldRoot, facts: Facts) -> dict[str, Any]:
    """The facts about the old root at *path*, for ``--json``."""
    name = entry.name
    retired = name.time if name is not None else None
    made = facts.made if facts.made is not None and facts.made >= DAWN else None
    trusted = retired if name is not None and not name.unsynced else None
    age = trusted - made if trusted is not None and made is not None else None
    return {
        "name": entry.label,
        "kind": entry.kind,
        "path": path,
        "made": made,
        "retired": retired,
        "age": age if age is None or age >= 0 else None,
        "state": facts.state or None,
        "boot-complete": facts.state == BOOT_COMPLETE
        or (not facts.state and not (name and name.unused)),
        "keep": bool(name and name.keep),
        "unused": bool(name and name.unused),
        "unsynced": bool(name and name.unsynced),
        "size": facts.size,
        "exclusive": facts.exclusive,
    }


def rows(content: dict[str, Any], entry: OldRoot, facts: Facts) -> list[list[str]]:
    """The same facts for people."""
    unknown = "not known"
    made, retired, age = content["made"], content["retired"], content["age"]
    term = f"{terminal.duration(age)}, until the next boot" if age is not None else unknown
    states = {BOOT_COMPLETE: "yes", NEW: "no: none of its boots was complete"}
    retirement = terminal.moment(retired) if retired is not None else unknown
    if content["unsynced"]:
        retirement += ", by a clock that was not synchronised"
    no_quotas = f"{unknown} (quotas are off)"
    return [
        ["path", content["path"]],
        ["made", terminal.moment(made) if made is not None else unknown],
        ["retired", retirement],
        ["was the root for", term],
        ["boot complete", states.get(facts.state, "not made by a wipe")],
        ["never pruned", "yes" if content["keep"] else "no"],
        *(["kept because", line] for line in content["kept-for"]),
        ["size", amounts.size(facts.size) if facts.size is not None else no_quotas],
        ["exclusive data", f"{amounts.size(facts.exclusive)}"
         if facts.exclusive is not None else f"{unknown} (not measured within {_MEASURING} s)"],
    ]  # fmt: skip


# mount


def mount(arguments: argparse.Namespace) -> int:
    """Mount one old root read-only at a directory. The user unmounts it with ``umount``."""
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    where = os.path.realpath(arguments.directory)
    place = _open_place(where, may_hide=arguments.dry_run)
    with ExitStack() as stack:
        stack.callback(os.close, place)
        with Namespace() as private, keeper.history(private) as history:
            entry = history.find(arguments.name)
            line = f"mount {history.path(entry)} read-only at {where}"
            if arguments.dry_run:
                _say_mounted(arguments, entry, where, f"{line}: {DRY_RUN}")
                return 0
            made = history.mount(entry)
            stack.callback(os.close, made)
        # The only mount that is made in the caller's namespace: the user asks for it.
        mounts.attach(made, place, name=where)
    undo = f"umount {shlex.quote(where)}"
    _say_mounted(arguments, entry, where, f"{line}: mounted; run '{undo}' to unmount it")
    return 0


def _say_mounted(arguments: argparse.Namespace, entry: OldRoot, where: str, line: str) -> None:
    if not arguments.json:
        terminal.say(line)
        return
    content = {"name": entry.label, "directory": where, "dry-run": arguments.dry_run}
    output.print_json("roots-mount", content)


def _open_place(where: str, *, may_hide: bool) -> int:
    """The open directory *where*, which must be empty unless *may_hide*. It is open in the caller's
    namespace, so the mount is attached to the same directory.
    """
    try:
        place = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(
            f"cannot mount at {where}: it is not a directory",
            f"run 'mkdir {shlex.quote(where)}', or name an empty directory",
        ) from None
    try:
        if paths.names(place) and not may_hide:
            raise Misconfigured(
                f"cannot mount at {where}: it is not empty", "name an empty directory"
            )
    except BaseException:
        os.close(place)
        raise
    return place


# diff


def compare(arguments: argparse.Namespace) -> int:
    """Compare one old root with another, or with the present root."""
    if arguments.live and arguments.other:
        raise Misconfigured("cannot combine --live with a second old root", "omit one of the two")
    plan = histories.applied_plan(arguments.root)
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    with Namespace() as private, ExitStack() as trees:
        with keeper.history(private) as history:
            first = history.find(arguments.name)
            second = history.find(arguments.other) if arguments.other else None
            names = (first.label, second.label if second is not None else "this root")
            old = history.mount(first)
            one = trees.enter_context(two_roots.attached(private, names[0], old))
            new = history.mount(second) if second is not None else two_roots.live(keeper)
            other = trees.enter_context(two_roots.attached(private, names[1], new))
        comparison = two_roots.prepare(
            history,
            [one, other],
            elsewhere=two_roots.elsewhere(plan, keeper),
            patterns=two_roots.patterns(arguments.exclude, everything=arguments.all),
            content=arguments.content,
        )
        found = two_roots.run(comparison, one, other)
    if arguments.json:
        content = {
            "target": keeper.target,
            "old": names[0],
            "new": second.label if second is not None else None,
            "differences": differences.to_json(found),
            "problems": comparison.problems,
        }
        output.print_json("roots-diff", content)
    elif not found:
        terminal.say(f"{names[0]} and {names[1]} do not differ")
    else:
        terminal.say(f"from {names[0]} to {names[1]}:")
        terminal.say()
        differences.show(found, most=None if arguments.long else diff.MOST)
        terminal.say()
        terminal.say(differences.summary(found))
    for problem in comparison.problems:
        terminal.warning(f"not compared: {problem}")
    return output.PARTLY if comparison.problems else 0
