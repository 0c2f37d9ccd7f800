"""``ephemeroot rehearse``: simulate the next boot on a throw-away root."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ephemeroot import backends, terminal
from ephemeroot.backends.contract import Rehearsal
from ephemeroot.cli import access, output
from ephemeroot.config import Machine, examine, read
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.root import Root
from ephemeroot.plan import seeds
from ephemeroot.plan.compile import compile_examination
from ephemeroot.simulate import copies, findings, mislabelled, processes
from ephemeroot.simulate.boot import SimulatedBoot
from ephemeroot.simulate.environment import Environment
from ephemeroot.simulate.findings import ERROR, Finding, Inspection

_LARGE = 8 << 20
"""The size in bytes up to which files are copied into memory although a boot would share them."""

_COLOURS = {"error": "31", "warning": "33", "note": "1"}


@dataclass(slots=True)
class _Task:
    """The plan to simulate, the root, and the throw-away root for it."""

    root: Path
    plan: Plan
    line: str
    rehearsal: Rehearsal
    large: frozenset[str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the top level of the root's btrfs")
    parser.add_argument("--verbose", action="store_true", help="show the messages of the stages")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: the boot would work, perhaps with warnings; 1: it would fail."""
    task = _prepare(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    with Namespace() as private:
        result = processes.simulate(
            lambda: _run(task, verbose=arguments.verbose),
            lambda: _tidy(task, private),
        )
    if result is None:
        raise EphemerootError(
            "the simulation ended early", "run 'ephemeroot rehearse --verbose' to see why"
        )
    found = [Finding(**one) for one in result["findings"]]
    if arguments.json:
        _print_json(result, found)
    else:
        _print(result, found)
    return int(any(one.severity == ERROR for one in found))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prepare(arguments: argparse.Namespace) -> _Task:
    machine = Machine.of(arguments.root)
    config = read(machine, arguments.config)
    plan = compile_examination(examine(config, machine)).plan
    root = Path(machine.root)
    wipe = plan.root_wipe()
    if wipe is None:
        raise Misconfigured(
            "cannot simulate the next boot: [root] has no wiper", "set wiper in [root]"
        )
    named = Root.named(machine, wipe.device, wipe.subvolume)
    rehearsal = backends.of(wipe.load()).rehearsal(wipe, named, root, [])
    line = next((text for _, text in machine.command_lines), "")
    large = [s.path for s in seeds.foresee(plan, root) if s.shared and s.size > _LARGE]
    return _Task(root, plan, line.strip(), rehearsal, frozenset(large))


def _tidy(task: _Task, private: Namespace) -> bool:
    """Remove the throw-away root, also after a failure. Returns whether all of it is removed."""
    problems = task.rehearsal.tidy(private.directory())
    for problem in problems:
        terminal.warning(problem, "run 'ephemeroot rehearse' again to remove it")
    return not problems


def _run(task: _Task, *, verbose: bool) -> dict[str, Any]:
    # A separate namespace: the waiting process never sees the mounts, however this one ends.
    with Namespace() as private:
        return _simulate(task, private, verbose=verbose)


def _simulate(task: _Task, private: Namespace, *, verbose: bool) -> dict[str, Any]:
    if not verbose:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
    place = Environment(Path(private.directory()), task.root, task.rehearsal.notes)
    place.set_up()
    boot = SimulatedBoot(place, task.plan, task.line, task.rehearsal, task.large)
    found: list[Finding] = []
    try:
        boot.run()
    except (EphemerootError, OSError) as error:
        found.append(_failure(boot, error))
    else:
        found += _inspect(task, place)
    operations: list[Any] = []
    for report in boot.reports:
        content: Any = report.content
        operations += content["operations"]
        found = [
            Finding(ERROR if content["stage"] == "wipe" else findings.WARNING,
                    one["problem"], one["hint"])
            for one in content["problems"]
        ] + found  # fmt: skip
    # The stages and the inspection of their result may find the same problem.
    found = list({one.text: one for one in found}.values())
    # A path that is seeded from the same root hides the same content.
    seeded = {o["line"] for o in operations if "seeded" in o["result"]}
    hidden = [o for o in operations if "hiding" in o["result"] and o["line"] not in seeded]
    found += [Finding(findings.NOTE, f"{o['line']}: {o['result']}") for o in hidden]
    found += [Finding(findings.NOTE, note) for note in place.notes]
    found += [
        Finding(
            findings.NOTE,
            f"{path} is empty in this simulation because it is large; the boot shares its data "
            "with the root",
        )
        for path in sorted(task.large)
    ]  # fmt: skip
    return {
        "operations": [{"line": o["line"], "result": o["result"]} for o in operations],
        "findings": [
            {"severity": one.severity, "text": one.text, "hint": one.hint} for one in found
        ],
    }


def _inspect(task: _Task, place: Environment) -> list[Finding]:
    kernels = list(copies.boot_kernels_of(task.root))
    unread = [Finding(findings.WARNING, one.problem, one.hint) for one in kernels if one.problem]
    bootable = frozenset(one.release for one in kernels if one.release)
    inspection = Inspection(task.root, place.target, task.plan, bootable)
    try:
        found = inspection.all()
    finally:
        inspection.close()
    labels = mislabelled.look(place.target, task.plan)
    return [*found, *copies.inspect(task.root, place.target, task.plan), *labels, *unread]


def _failure(boot: SimulatedBoot, error: EphemerootError | OSError) -> Finding:
    stage = "the persistence stage" if len(boot.reports) > 1 else "the wipe stage"
    if isinstance(error, EphemerootError):
        return Finding(ERROR, f"{stage} would fail: {error.message}", error.hint)
    where = f": {error.filename}" if error.filename else ""
    return Finding(ERROR, f"{stage} would fail: {error.strerror or error}{where}")


def _print(result: dict[str, Any], found: list[Finding]) -> None:
    for one in found:
        word = terminal.paint(f"{one.severity}:", _COLOURS[one.severity], sys.stdout)
        sys.stdout.write(f"{word} {terminal.printable(one.text)}\n")
        if one.hint:
            terminal.say(f"  hint: {one.hint}")
    counts = {kind: sum(one.severity == kind for one in found) for kind in _COLOURS}
    operations = terminal.count(len(result["operations"]), "operation")
    done = f"{operations} simulated, all copies removed"
    words = [terminal.count(number, kind) for kind, number in counts.items() if number]
    terminal.say(f"{done}: {', '.join(words) if words else 'no problems'}")


def _print_json(result: dict[str, Any], found: list[Finding]) -> None:
    content = {
        "would-boot": not any(one.severity == ERROR for one in found),
        **result,
    }
    output.print_json("rehearse", content)
