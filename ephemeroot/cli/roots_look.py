"""``ephemeroot roots show``, ``mount`` and ``diff``: looking into old roots."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shlex
import sys
from typing import Any

from ephemeroot import amounts
from ephemeroot.cli import diff, differences, histories, looking, terminal
from ephemeroot.errors import Misconfigured
from ephemeroot.linux import kernel, mounts
from ephemeroot.wipers.history import History
from ephemeroot.wipers.marks import LIVED, NEW
from ephemeroot.wipers.oldroot import Facts, OldRoot

FORMAT_SHOW = "ephemeroot-roots-show"
FORMAT_DIFF = "ephemeroot-roots-diff"
FORMAT_MOUNT = "ephemeroot-roots-mount"
VERSION = 1

_CLONE_NEWNS = 0x00020000


# show


def show(arguments: argparse.Namespace) -> int:
    """Print what is known about one old root."""
    histories.hide_mounts()
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    with keeper.history() as history:
        entry = history.find(arguments.name)
        facts = history.facts(entry)
        content = _to_json(history, entry, facts)
    if arguments.json:
        document = {"format": FORMAT_SHOW, "version": VERSION, "target": keeper.target, **content}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(terminal.heading(f"old root {terminal.printable(entry.label)}") + "\n")
        terminal.table(_rows(content, entry, facts))
    return 0


def _to_json(history: History, entry: OldRoot, facts: Facts) -> dict[str, Any]:
    name = entry.name
    retired = name.time if name is not None else None
    lived = retired - facts.made if retired is not None and facts.made is not None else None
    return {
        "name": entry.label,
        "kind": entry.kind,
        "path": history.path(entry),
        "made": facts.made,
        "retired": retired,
        "age": lived if lived is None or lived >= 0 else None,
        "state": facts.state or None,
        "lived": facts.state == LIVED or (not facts.state and not (name and name.unused)),
        "keep": bool(name and name.keep),
        "unused": bool(name and name.unused),
        "unsynced": bool(name and name.unsynced),
        "size": facts.size,
        "exclusive": facts.exclusive,
    }


def _rows(content: dict[str, Any], entry: OldRoot, facts: Facts) -> list[list[str]]:
    unknown = "not known"
    made, retired, age = content["made"], content["retired"], content["age"]
    states = {LIVED: "yes", NEW: "no: no boot of it was complete"}
    retirement = terminal.moment(retired) if retired is not None else unknown
    if content["unsynced"]:
        retirement += ", by a clock that could not be trusted"
    no_quotas = f"{unknown} (quotas are off)"
    return [
        ["lies in", content["path"]],
        ["made", terminal.moment(made) if made is not None else unknown],
        ["retired", retirement],
        ["was the root for", terminal.duration(age) if age is not None else unknown],
        ["lived", states.get(facts.state, "not made by a wipe")],
        ["kept for ever", "yes" if content["keep"] else "no"],
        ["size", amounts.size(facts.size) if facts.size is not None else no_quotas],
        ["its own alone", amounts.size(facts.exclusive) if facts.exclusive is not None
         else no_quotas],
    ]  # fmt: skip


# mount


def mount(arguments: argparse.Namespace) -> int:
    """Mount one old root, read-only, at a directory; ``umount`` undoes it."""
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    where = os.path.realpath(arguments.directory)
    if not os.path.isdir(where):
        raise Misconfigured(f"{where} is no directory", "make it first")
    if os.listdir(where) and not arguments.dry_run:
        raise Misconfigured(f"{where} is not empty", "what is in it would be hidden")
    before = histories.hide_mounts()
    try:
        with keeper.history() as history:
            entry = history.find(arguments.name)
            line = f"mount {history.path(entry)}, read-only, at {where}"
            if arguments.dry_run:
                _say_mounted(arguments, entry, where, f"{line}: not done: dry run")
                return 0
            made = history.mount(entry)
        try:
            _attach_in(before, made, where)
        finally:
            os.close(made)
    finally:
        os.close(before)
    undo = f"umount {shlex.quote(where)}"
    _say_mounted(arguments, entry, where, f"{line}: mounted; '{undo}' undoes it")
    return 0


def _say_mounted(arguments: argparse.Namespace, entry: OldRoot, where: str, line: str) -> None:
    if not arguments.json:
        terminal.say(line)
        return
    content = {"name": entry.label, "directory": where, "dry-run": arguments.dry_run}
    document = {"format": FORMAT_MOUNT, "version": VERSION, **content}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _attach_in(namespace: int, made: int, where: str) -> None:
    """Attach the detached mount *made* at *where* in another mount namespace: ours before."""
    if kernel.libc.setns(namespace, ctypes.c_int(_CLONE_NEWNS)) != 0:
        kernel.raise_errno("the mount namespace")
    place = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mounts.attach(made, place, name=where)
    finally:
        os.close(place)


# diff


def compare(arguments: argparse.Namespace) -> int:
    """Compare one old root with another, or with the present one."""
    if arguments.live and arguments.other:
        raise Misconfigured("--live and a second old root exclude each other", "leave one out")
    plan = histories.applied_plan(arguments.root)
    (keeper,) = histories.keepers(arguments.root, arguments.volume or "/")
    histories.hide_mounts()
    with keeper.history() as history:
        first = history.find(arguments.name)
        old = history.mount(first)
        second = history.find(arguments.other) if arguments.other else None
        new = history.mount(second) if second is not None else looking.live(keeper)
    names = (first.label, second.label if second is not None else "this root")
    with looking.attached(names[0], old) as one, looking.attached(names[1], new) as other:
        comparison = looking.prepare(
            history,
            [one, other],
            elsewhere=looking.elsewhere(plan, keeper),
            patterns=looking.patterns(arguments.exclude, everything=arguments.all),
            content=arguments.content,
        )
        found = looking.run(comparison, one, other)
    if arguments.json:
        document = {
            "format": FORMAT_DIFF,
            "version": VERSION,
            "target": keeper.target,
            "old": names[0],
            "new": second.label if second is not None else None,
            "differences": differences.to_json(found),
            "problems": comparison.problems,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif not found:
        terminal.say(f"{names[0]} and {names[1]} do not differ")
    else:
        terminal.say(f"from {names[0]} to {names[1]}:")
        terminal.say()
        differences.show(found, most=None if arguments.long else diff.MOST)
        terminal.say()
        terminal.say(differences.summary(found))
    for problem in comparison.problems:
        terminal.warning(problem, "it was passed over")
    return diff.PARTLY if comparison.problems else 0
