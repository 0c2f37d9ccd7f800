"""``ephemeroot status``: what this boot did, what is kept, and what the next boot will do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ephemeroot import amounts
from ephemeroot.cli import access, boot_report, declared_paths, missing_bases, omissions, terminal
from ephemeroot.cli.boot_report import BootReport
from ephemeroot.cli.missing_bases import Missing
from ephemeroot.config import Machine, markers
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks import request as requests
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.omission import Omission
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.stage import RUN
from ephemeroot.image import age, applied
from ephemeroot.linux import documents
from ephemeroot.oldroots.in_effect import NotInEffect
from ephemeroot.wipers import names

FORMAT = "ephemeroot-status"
VERSION = 1
PROBLEMS = 10

_AS_ROOT = "not known: run it as root"
_FULL = 0.95  # of a store


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, access.NOTHING)
    parser.add_argument(
        "--long", action="store_true", help="show every step of the boot, and how long it took"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: as it should be; 10: something is not, and is said."""
    status = collect(arguments.root)
    if arguments.json:
        sys.stdout.write(json.dumps(status.to_json(), indent=2) + "\n")
    else:
        _show(status, long=arguments.long)
    return PROBLEMS if status.complaints() else 0


@dataclass
class StoreStatus:
    """One store: ``state`` is ``ok`` or what is wrong; ``size`` and ``free`` in bytes."""

    path: str
    state: str
    size: int = 0
    free: int = 0


@dataclass
class Unseeded:
    """What a boot could not seed. ``missing``: the store has nothing of it, so that the path is not
    in effect.
    """

    omission: Omission
    missing: bool

    @property
    def line(self) -> str:
        """What is missing, and what that means."""
        end = ": it is not in effect" if self.missing else ""
        return f"{self.omission.describe()}{end}"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        one = self.omission
        return {
            "path": one.path,
            "store": one.store,
            "in-effect": not self.missing,
            "reason": one.reason or None,
            "left-out": [{"path": name, "reason": reason} for name, reason in one.files],
            "left-out-count": one.count,
            "old-root": one.root or None,
            "hint": one.hint(),
        }


@dataclass
class Status:
    """Everything that ``status`` knows. ``unknown`` has what this user may not read, ``damage``
    what nobody can: the rest is shown all the same.
    """

    boot: BootReport
    plan: Plan | None
    booted: int | None
    stores: list[StoreStatus] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    next_boot: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    unseeded: list[Unseeded] = field(default_factory=list)
    not_in_effect: list[NotInEffect] = field(default_factory=list)
    missing_bases: list[Missing] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """What is not as it should be, a line each."""
        lines = [*self.damage, *(p.get("problem", "") for p in self.boot.problems)]
        if self.boot.state == "failed" or (self.boot.state == "none" and self.plan is not None):
            lines.append(f"this root is not ephemeral: {self.boot.reason}")
        if self.boot.state == "foreign":
            return [*lines, *self.images]  # no store is mounted, and none is missed
        for store in self.stores:
            if store.state != "ok":
                lines.append(f"the store {store.path}: {store.state}")
            elif store.size and store.free < store.size * (1 - _FULL):
                lines.append(f"the store {store.path} is nearly full")
        lines += [f"{one.line} ({missing_bases.HINT})" for one in self.missing_bases]
        lines += [declared_paths.line(one) for one in self.not_in_effect]
        return [*lines, *(one.line for one in self.unseeded), *self.images]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "root": self.boot.state,
            "reason": self.boot.reason or None,
            "stages": self.boot.stages,
            "wiped": self.boot.wiped,
            "outcomes": self.boot.outcomes,
            "generation": {
                "booted": self.booted,
                "applied": self.plan.generation if self.plan else None,
            },
            "stores": [
                {"path": s.path, "state": s.state, "size": s.size, "free": s.free}
                for s in self.stores
            ],
            "unseeded": [one.to_json() for one in self.unseeded],
            "not-in-effect": declared_paths.to_json(self.not_in_effect),
            "images": self.images,
            "next-boot": self.next_boot,
            "complaints": self.complaints(),
            "unknown": self.unknown,
        }


def collect(root: str) -> Status:
    """Look at the machine below *root*, as far as this user may."""
    folder = Path(root)
    unknown: list[str] = []
    damage: list[str] = []
    plan = None
    try:
        plan = applied.load(folder)
    except PermissionError:
        unknown.append("the applied plan")
    except Damaged as error:
        damage.append(f"{error.message} ('ephemeroot apply' writes it anew)")
    boot = boot_report.read(folder)
    status = Status(boot, plan, _booted(folder), unknown=unknown, damage=damage)
    if plan is not None:
        status.stores = [_store(folder, store.path, store.id) for store in plan.stores()]
        status.images = age.findings(folder)
        status.missing_bases = missing_bases.look(root, plan)
        status.unseeded = _unseeded(folder, plan, status)
    try:
        status.not_in_effect = declared_paths.look(folder, boot)
    except PermissionError:
        unknown.append("whether declared paths are in effect")
    status.next_boot = _next_boot(folder, status)
    return status


def _unseeded(root: Path, plan: Plan, status: Status) -> list[Unseeded]:
    try:
        found = omissions.read(root, plan, status.damage)
        return [Unseeded(one, omissions.is_missing(root, one)) for one in found]
    except PermissionError:
        status.unknown.append("what could not be seeded into the stores")
        return []


def _booted(root: Path) -> int | None:
    """The generation that this boot followed."""
    try:
        return plans.load(str(root / RUN.lstrip("/") / plans.FOLLOWED)).generation
    except Damaged:
        return None


def _store(root: Path, path: str, identity: str) -> StoreStatus:
    where = root / path.lstrip("/")
    try:
        found = markers.read(str(where))
        space = os.statvfs(where)
    except (Damaged, OSError) as error:
        reason = error.message if isinstance(error, Damaged) else str(error.strerror)
        return StoreStatus(path, reason)
    size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    if found is None:
        return StoreStatus(path, "has no marker: is its volume mounted?", size, free)
    if found != identity:
        return StoreStatus(path, "is another store than the plan names", size, free)
    return StoreStatus(path, "ok", size, free)


def _next_boot(root: Path, status: Status) -> list[str]:
    """What the next boot does, a line each; the first word on it is the last one spoken."""
    plan = status.plan
    if plan is None:
        if status.damage:
            return ["not known: the applied plan cannot be read; it does what its image says"]
        return [_AS_ROOT if status.unknown else "nothing was applied: it changes nothing"]
    lines = []
    for name, text in Machine.of(str(root)).command_lines:
        line = CommandLine(text)
        if name == "/proc/cmdline":
            continue  # this boot's, not the next one's
        words = [w for w in text.split() if w.startswith("ephemeroot")]
        if words:
            lines.append(f"{name} says {' '.join(words)}")
        if line.is_off("ephemeroot") or not line.allows("ephemeroot.wipe"):
            return [*lines, "the root is kept as it is"]
    request = _request(root, plan, status)
    if status.damage:
        return [*lines, "the root is kept as it is, for a request cannot be read"]
    if request is not None:
        lines.append(f"it is asked to {request.describe()} ('ephemeroot next-boot')")
        if request.word == requests.KEEP:
            return lines
    wipes = plan.wipes()
    if not wipes:
        lines.append("nothing is made fresh: no wiper is configured")
    lines += [wipe.describe() for wipe in wipes]
    if status.images:
        lines.append("but not with these images: an image that is older does not wipe")
    return lines


def _request(root: Path, plan: Plan, status: Status) -> requests.Request | None:
    for store in plan.stores():
        try:
            record = root / store.path.lstrip("/") / requests.RECORD
            return requests.parse(documents.read(str(record)))
        except PermissionError:
            status.unknown.append("a request for the next boot")
            return None
        except Damaged as error:
            status.damage.append(f"{error.message} ('ephemeroot next-boot --clear' removes it)")
            return None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            status.damage.append(f"cannot read {error.filename}: {error.strerror}")
            return None
    return None


# Printing

_STATES = {
    "ephemeral": ("this root is new: it was made by this boot", terminal.GREEN),
    "kept": ("this root was kept as it was", terminal.YELLOW),
    "foreign": ("this boot is of another root, left untouched", terminal.YELLOW),
    "failed": ("this root could not be made fresh", terminal.RED),
    "none": ("this root is not ephemeral", terminal.YELLOW),
}


def _show(status: Status, *, long: bool) -> None:
    boot = status.boot
    words, colour = _STATES[boot.state]
    line = f"{words}: {boot.reason}" if boot.reason else words
    sys.stdout.write(terminal.paint(terminal.printable(line), colour, sys.stdout) + "\n")
    terminal.table(_boot_rows(status))
    if long:
        _show_steps(boot)
    else:
        _section("hidden by what is bound over it", boot.outcomes.get("hiding", []))
        _section("taken over by the stores", boot.outcomes.get("seeded", []))
    _show_problems(boot)
    declared_paths.show(status.not_in_effect)
    _section("old roots", _undated(boot))
    _section("damaged", status.damage)
    if status.stores:
        sys.stdout.write(terminal.heading("stores") + "\n")
        terminal.table([_store_row(store) for store in status.stores], right=(1, 2))
    _show_unseeded(status.unseeded)
    _section("bases", [f"{one.line} ({missing_bases.HINT})" for one in status.missing_bases])
    _section("images", status.images)
    _section("the next boot", status.next_boot)
    _section("not known, for only root may read it", status.unknown)
    _section(f"not as it should be (exit code {PROBLEMS})", status.complaints())


def _undated(boot: BootReport) -> list[str]:
    """Why old roots do not age: a line for each history with some whose age is not known."""
    lines = []
    for target, facts in sorted(boot.wiped.items()):
        found = [names.parse(str(text)) for text in facts.get("kept") or []]
        count = sum(1 for name in found if name is not None and name.unsynced and not name.keep)
        if count:
            lines.append(
                f"{target}: {terminal.count(count, 'old root')} of unknown age, retired while the "
                "clock was not synchronised: only keep-at-most, keep-days as a number, and "
                "min-free limit them until it is"
            )
    return lines


def _boot_rows(status: Status) -> list[list[str]]:
    boot = status.boot
    rows = []
    for target, facts in sorted(boot.wiped.items()):
        parts = [f"made fresh by {facts.get('wiper')}"]
        if facts.get("retired"):
            parts.append(f"the one before is old root {facts['retired']}")
        if facts.get("pruned"):
            parts.append(f"{len(facts['pruned'])} old ones deleted")
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
        newer = "" if same else f", generation {status.plan.generation} was applied since then"
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
    sys.stdout.write(terminal.heading("what failed") + "\n")
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
