"""The output of ``ephemeroot status`` for people."""

from __future__ import annotations

import sys

from ephemeroot import amounts, terminal
from ephemeroot.base import missing_bases, package_record
from ephemeroot.status import declared_paths
from ephemeroot.status.boot_report import BootReport
from ephemeroot.wipers import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.status.report import Status, StoreStatus, Unseeded

_STATES = {
    "ephemeral": ("this root is new: this boot made it", terminal.GREEN),
    "in-memory": ("this root is new, with its layer in memory", terminal.RED),
    "kept": ("this boot kept the previous root", terminal.YELLOW),
    "foreign": ("this boot has another root and did not change it", terminal.YELLOW),
    "failed": ("this boot failed to make a new root", terminal.RED),
    "none": ("this root is not ephemeral", terminal.YELLOW),
}


def show(status: Status, *, long: bool) -> None:
    """Print *status*; with *long* every step of the boot."""
    boot = status.boot
    words, colour = _STATES[boot.state]
    line = f"{words}: {boot.reason}" if boot.reason else words
    sys.stdout.write(terminal.paint(terminal.printable(line), colour, sys.stdout) + "\n")
    terminal.table(_boot_rows(status))
    if long:
        _show_steps(boot)
    else:
        _section("hidden by an empty directory", status.hidden)
        _section("seeded into the stores", boot.outcomes.get("seeded", []))
    _show_problems(boot)
    declared_paths.show(status.not_in_effect)
    if status.packages:
        lines = package_record.commands(status.packages)
        _section("packages", [package_record.describe(status.packages), *lines])
    _section("old roots", _undated(boot))
    _section("damaged", status.damage)
    if status.stores:
        sys.stdout.write(terminal.heading("stores") + "\n")
        terminal.table([_store_row(store) for store in status.stores], right=(1, 2))
    _show_unseeded(status.unseeded)
    _section("bases", [f"{one.line} ({missing_bases.HINT})" for one in status.missing_bases])
    _section("images", status.images)
    _section("not applied", status.unapplied.lines())
    _section("full", [one.line for one in status.full])
    _section("the next boot", status.next_boot)
    _section("not known: only root may read it", status.unknown)
    _section("problems (each makes status exit with 10)", status.complaints())


def _undated(boot: BootReport) -> list[str]:
    """A line for each history that has old roots of unknown age."""
    lines = []
    for target, facts in sorted(boot.wiped.items()):
        found = list(filter(None, (names.parse(str(text)) for text in facts.get("kept") or [])))
        latest: dict[int, int] = {}
        for name in found:  # old roots with the same time have numbers: the clock did not advance
            latest[name.time] = max(latest.get(name.time, 0), name.number)
        count = sum(
            1
            for name in found
            if not name.keep and (name.unsynced or name.number < latest[name.time])
        )
        if count:
            lines.append(
                f"{target}: {terminal.count(count, 'old root')} of unknown age, retired while the "
                "clock was not synchronised; until it is, only keep-at-most, keep-days as a "
                "number, and min-free limit them"
            )
    return lines


def _boot_rows(status: Status) -> list[list[str]]:
    boot = status.boot
    rows = []
    for target, facts in sorted(boot.wiped.items()):
        parts = [f"wiped by {facts.get('wiper')}"]
        if facts.get("retired"):
            parts.append(f"the previous root is old root {facts['retired']}")
        if facts.get("pruned"):
            parts.append(f"{terminal.count(len(facts['pruned']), 'old root')} deleted")
        if facts.get("kept"):
            parts.append(f"{len(facts['kept'])} kept")
        rows.append([target, ", ".join(parts)])
    for name, stage in boot.stages.items():
        began = boot.began(name)
        when = f", at {terminal.moment(began)}" if began is not None else ""
        seconds = stage.get("seconds")
        took = f" in {terminal.duration(seconds)}" if isinstance(seconds, (int, float)) else ""
        rows.append([name, f"{stage.get('result', 'not finished')}{took}{when}"])
    paths = {k: v for k, v in boot.outcomes.items() if k not in ("seeded", "hiding")}
    if paths:
        parts = [f"{len(v)} {k}" for k, v in sorted(paths.items())]
        if status.not_in_effect:
            parts.append(f"{len(status.not_in_effect)} of them not in effect now")
        rows.append(["paths", ", ".join(parts)])
    if status.plan is not None and status.booted is not None:
        same = status.booted == status.plan.generation
        newer = "" if same else f"; generation {status.plan.generation} has been applied since"
        rows.append(["plan", f"generation {status.booted}{newer}"])
    return rows


def _show_steps(boot: BootReport) -> None:
    for name, stage in boot.stages.items():
        sys.stdout.write(terminal.heading(name) + "\n")
        rows = [
            [terminal.duration(entry.get("seconds", 0)), str(entry.get("result", "")),
             str(entry.get("line", ""))]
            for entry in stage.get("operations", [])
        ]  # fmt: skip
        terminal.table(rows, right=(0,))


def _show_problems(boot: BootReport) -> None:
    if not boot.problems:
        return
    sys.stdout.write(terminal.heading("failures of this boot") + "\n")
    for problem in boot.problems:
        line = terminal.printable(problem.get("problem", ""))
        sys.stdout.write("  " + terminal.paint(line, terminal.RED, sys.stdout) + "\n")
        if problem.get("hint"):
            terminal.say(f"    hint: {problem['hint']}")


def _show_unseeded(found: list[Unseeded]) -> None:
    if not found:
        return
    sys.stdout.write(terminal.heading("not seeded") + "\n")
    for one in found:
        line = terminal.printable(one.line)
        sys.stdout.write("  " + terminal.paint(line, terminal.YELLOW, sys.stdout) + "\n")
        terminal.say(f"    hint: {one.omission.hint()}")


def _store_row(store: StoreStatus) -> list[str]:
    if not store.size:
        return [store.path, "", "", store.state]
    used = 100 * (store.size - store.free) // store.size
    state = "" if store.state == "ok" else store.state
    return [store.path, f"{used}% full", f"{amounts.size(store.free)} free", state]


def _section(title: str, lines: list[str]) -> None:
    if not lines:
        return
    sys.stdout.write(terminal.heading(title) + "\n")
    for line in lines:
        terminal.say(f"  {line}")
