"""``ephemeroot upgrade``, ``install`` and ``remove``: run the package manager in the base."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ephemeroot import terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.base import (
    boot_filesystems,
    change,
    kernels,
    package_changes,
    package_managers,
)  # fmt: skip
from ephemeroot.base.package_managers import PackageManager
from ephemeroot.base.work import Order
from ephemeroot.cli import access, bases, output
from ephemeroot.cli.bases import BasedMachine
from ephemeroot.config.syntax import clean
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots.comparison import Comparison
from ephemeroot.plan import lock
from ephemeroot.wipers.contract import Outcome

_SHOWN = 10
"""The number of lines that are printed of a list."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the common arguments of the three verbs."""
    parser.add_argument(
        "--yes", action="store_true", help="do not ask; the package manager does not ask either"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    access.declare(
        parser, "the filesystem of the base, and for the package manager all mounts of this machine"
    )


def configure_packages(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``install`` and ``remove``."""
    configure(parser)
    parser.add_argument(
        "--now", action="store_true", help="do the same in the running root afterwards"
    )
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")


@dataclass
class Summary:
    """The changes of the packages of a base.

    ``packages`` maps a name to its versions before and after; ``None`` means not installed.
    ``kernels`` are releases with new modules in the base. ``configuration`` are persistent files
    that have changed in the base; their versions in the store stay in effect.
    """

    packages: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)
    configuration: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(arguments: argparse.Namespace, action: str) -> int:
    """Exit code 0: done, or nothing to do; 1: the package manager failed, and the base is
    unchanged; 3: another run holds the lock; 10: the base was replaced, but another part of the
    run failed; 130: interrupted.
    """
    packages = getattr(arguments, "packages", [])
    _require_names(packages)
    if not (arguments.yes or arguments.dry_run or sys.stdin.isatty()):
        raise Misconfigured(
            "the package manager needs a terminal for its questions",
            f"run 'ephemeroot {action} --yes' to answer yes to all of them",
        )
    bases.require_this_machine(arguments.root)
    if access.may_write(arguments):
        boot_filesystems.trigger()
    lines: list[str] = []
    say = bases.log(arguments, lines)
    summary = Summary()
    with lock.hold(Path(arguments.root), f"ephemeroot {action}", dry_run=arguments.dry_run):
        manager = package_managers.of(arguments.root)
        words = manager.command(action, packages, attended=not arguments.yes)
        shown = " ".join([os.path.basename(manager.program), *manager.actions[action], *packages])
        based = BasedMachine.of(arguments)
        with Namespace() as private, based.opened(private) as place:
            if arguments.dry_run:
                outcome: Outcome | None = bases.foresee(place, shown, say)
            else:
                change.recover(place, terminal.say)
                before = _State(place, manager, summary)
                kept = based.kept()
                order = Order(
                    words,
                    confirm=lambda: None,
                    ask=bases.ask(arguments, action),
                    output=sys.stderr.fileno() if arguments.json else None,
                    kept=kept,
                    name=shown,
                    scratch=manager.scratch,
                )
                outcome = change.run(place, order, say)
                if outcome is not None:
                    before.compare(kept)
                    package_changes.refresh(Path(arguments.root), place, manager)
    if outcome is not None:
        summary.problems += outcome.problems
    if getattr(arguments, "now", False):
        _do_now(words, shown, arguments, say, summary)
    return _finish(arguments, lines, outcome, summary)


def _require_names(packages: list[str]) -> None:
    """Raise ``Misconfigured`` for a word that a package manager would take for an option."""
    for name in packages:
        if name.startswith("-") or not name.isprintable() or not name:
            raise Misconfigured(
                f"{name!r} is not the name of a package",
                "run 'ephemeroot base run -- COMMAND' to pass options to the package manager",
            )


class _State:
    """The packages and kernels of the base before the run."""

    def __init__(self, place: Bases, manager: PackageManager, summary: Summary) -> None:
        self.place = place
        self.manager = manager
        self.summary = summary
        self.packages = self._installed()
        self.kernels = self._kernels()

    def compare(self, kept: Collection[str]) -> None:
        """Put the changes since then into the summary; *kept* are the paths that a new root does
        not take from the base.
        """
        self.summary.packages = package_managers.changed(self.packages, self._installed())
        self.summary.kernels = sorted(set(self._kernels()) - set(self.kernels))
        declared = [path for path in kept if clean.is_below(path, "/etc")]
        self.summary.configuration = sorted(_changed(self.place, declared))

    def _installed(self) -> dict[str, str]:
        try:
            return self.manager.installed(str(self.place.path))
        except EphemerootError as error:
            # The change of the base is valid even if its packages cannot be listed.
            if error.message not in self.summary.problems:
                self.summary.problems.append(error.message)
            return {}

    def _kernels(self) -> list[str]:
        fd = self.place.present()
        if fd < 0:
            return []
        try:
            return kernels.releases(fd)
        finally:
            os.close(fd)


def _changed(place: Bases, declared: list[str]) -> set[str]:
    """The files at and below the *declared* paths that differ between the newest old base and the
    base.
    """
    newest = bases.newest_old(place)
    if not declared or newest is None:
        return set()
    before = place.open(newest)
    after = place.present()
    try:
        differences = Comparison(
            skip=lambda path: not _leads(path, declared),
            related=True,
            changed_since=place.changed_since(after, before),
        )
        return {
            one.path
            for one in differences.run(before, after)
            if one.kind != "directory" and any(clean.is_below(one.path, path) for path in declared)
        }
    finally:
        os.close(before)
        os.close(after)


def _leads(path: str, declared: list[str]) -> bool:
    return any(clean.is_below(path, one) or clean.is_below(one, path) for one in declared)


def _do_now(
    words: list[str],
    shown: str,
    arguments: argparse.Namespace,
    say: Callable[[str], None],
    summary: Summary,
) -> None:
    say(f"run {shown} in the running root")
    if arguments.dry_run:
        return
    stdout = sys.stderr.fileno() if arguments.json else None
    environment = {**os.environ, package_changes.ALLOW: "allow"}
    status = subprocess.run(words, stdout=stdout, env=environment, check=False).returncode
    if status:
        summary.problems.append(
            f"{shown} failed in the running root (exit status {status}); the base has the change"
        )


def reboot() -> None:
    """Reboot the machine. Raises ``EphemerootError``."""
    words = ["systemctl", "reboot"] if Path("/run/systemd/system").is_dir() else ["reboot"]
    if shutil.which(words[0]) is None:
        raise EphemerootError(
            f"cannot reboot: the program {words[0]} is not installed", "reboot by hand"
        )
    status = subprocess.run(words, check=False).returncode
    if status:
        raise EphemerootError(
            f"cannot reboot: '{' '.join(words)}' failed (exit status {status})", "reboot by hand"
        )


def _finish(
    arguments: argparse.Namespace, lines: list[str], outcome: Outcome | None, summary: Summary
) -> int:
    restarts = outcome is not None and not arguments.dry_run
    reboots = restarts and not summary.problems and getattr(arguments, "reboot", "") == "if-needed"
    if arguments.json:
        output.print_json("packages", _document(arguments, lines, outcome, summary))
    elif restarts:
        _print(summary)
    for line in summary.problems:
        terminal.error(line)
    if restarts and not arguments.json:
        terminal.say(
            "done: this machine reboots into a root with the changed packages"
            if reboots
            else "done: the next root has the changed packages; the running root is unchanged"
        )
    if reboots:
        sys.stdout.flush()
        reboot()
    return output.PARTLY if summary.problems else 0


def _document(
    arguments: argparse.Namespace, lines: list[str], outcome: Outcome | None, summary: Summary
) -> dict[str, Any]:
    return {
        "dry-run": arguments.dry_run,
        "changed": outcome is not None,
        "changes": lines,
        "retired": outcome.retired if outcome is not None else None,
        "packages": [
            {"name": name, "before": before, "after": after}
            for name, (before, after) in summary.packages.items()
        ],
        "kernels": summary.kernels,
        "configuration": summary.configuration,
        "restart": outcome is not None and not arguments.dry_run,
        "problems": summary.problems,
    }


def _print(summary: Summary) -> None:
    _print_list(
        terminal.count(len(summary.packages), "package changed", "packages changed"),
        [
            f"{name} {before or '(not installed)'} → {after or '(removed)'}"
            for name, (before, after) in summary.packages.items()
        ],
    )
    _print_list("new kernels", summary.kernels)
    _print_list(
        "changed in the base, but the persistent version stays in effect", summary.configuration
    )


def _print_list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    terminal.say(f"{title}:")
    for line in lines[:_SHOWN]:
        terminal.say(f"  {line}")
    if len(lines) > _SHOWN:
        terminal.say(f"  and {len(lines) - _SHOWN} more")
