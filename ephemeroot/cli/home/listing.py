"""The output of ``ephemeroot home``: lines for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ephemeroot import terminal
from ephemeroot.config import Problem
from ephemeroot.execution import Result
from ephemeroot.home.exposure import Exposure
from ephemeroot.home.model import HomeConfiguration
from ephemeroot.home.observation import Finding
from ephemeroot.home.user import User


class Events:
    """The results of the operations. They are printed at once, unless the output is JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.all: list[Result] = []

    def note(self, result: Result) -> None:
        """Called after each operation."""
        is_repeated = any(result.reason == earlier.reason for earlier in self.all)
        self.all.append(result)
        if self.quiet:
            return
        if result.failed:
            hint = "" if is_repeated else result.hint
            terminal.error(f"cannot {result.line}: {result.reason}", hint)
            return
        terminal.say(result.line)
        for warning in result.step.warnings:
            terminal.warning(warning)
        sys.stdout.flush()

    @property
    def failed(self) -> int:
        """The number of failed operations."""
        return sum(result.failed for result in self.all)

    @property
    def done(self) -> int:
        """The number of successful operations."""
        return len(self.all) - self.failed

    def to_json(self) -> list[dict[str, object]]:
        """All results, for ``output.print_json``."""
        return [
            {
                "line": result.line,
                "result": result.text or "done",
                "hint": result.hint,
                "warning": "\n".join(result.step.warnings),
            }
            for result in self.all
        ]


def findings_json(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The state of each entry, for ``output.print_json``."""
    return [
        {
            "target": finding.entry.target,
            "source": finding.entry.source,
            "kind": "directory" if finding.entry.is_directory else "file",
            "method": finding.entry.method,
            "condition": finding.condition.value,
            "in-place": finding.is_in_place,
            "reason": finding.reason,
            "hint": finding.hint,
        }
        for finding in findings
    ]


def exposures_json(exposed: Sequence[Exposure]) -> list[dict[str, object]]:
    """Directories with wider permissions than their counterparts, for ``output.print_json``."""
    return [
        {
            "path": one.path,
            "mode": f"{one.mode:04o}",
            "like": one.like,
            "right-mode": f"{one.right_mode:04o}",
        }
        for one in exposed
    ]


def warn_of(findings: Sequence[Finding]) -> None:
    """Print the reason for each entry that is left unchanged."""
    for finding in findings:
        reason = f"{finding.entry.target} is {finding.condition.value}: {finding.reason}"
        terminal.warning(reason, finding.hint)


def print_table(user: User, findings: Sequence[Finding], undeclared: Mapping[str, str]) -> None:
    """Print a line for each entry, and for each mount or link that is no longer declared."""
    rows = []
    for finding in findings:
        more = f"{finding.reason} ({finding.hint})" if finding.hint else finding.reason
        entry = finding.entry
        rows.append((finding.condition.value, user.short(entry.target), entry.source, more))
    for target, source in undeclared.items():
        more = "run 'ephemeroot home apply' to remove it"
        rows.append(("not declared", user.short(target), source, more))
    lines = [[terminal.printable(cell) for cell in row] for row in rows]
    first, second = (max((len(line[n]) for line in lines), default=0) for n in (0, 1))
    for condition, target, source, more in lines:
        terminal.say(f"{condition:<{first}}  {target:<{second}}  {source}")
        if more:
            terminal.say(f"{'':<{first}}  {more}")


def print_count(findings: Sequence[Finding], *, dry_run: bool = False) -> None:
    """Print the number of entries that are in place."""
    if not findings:
        terminal.say("no entries are declared")
        return
    total = terminal.count(len(findings), "entry", "entries") + (" now" if dry_run else "")
    fine = sum(finding.is_in_place for finding in findings)
    terminal.say(f"{total}: {'all' if fine == len(findings) else fine} in place")


def print_problems(configuration: HomeConfiguration, problems: Sequence[Problem]) -> None:
    """Print all *problems* and their number."""
    terminal.problems(problems, sys.stdout)
    entries = (
        f"{configuration.file}: {terminal.count(len(configuration.entries), 'entry', 'entries')}"
    )
    if not problems:
        terminal.say(f"{entries}, no problems")
        return
    errors = count_errors(problems)
    warnings = terminal.count(len(problems) - errors, "warning")
    terminal.say(f"{entries}, {terminal.count(errors, 'error')}, {warnings}")


def count_errors(problems: Sequence[Problem]) -> int:
    """The number of *problems* that are errors."""
    return sum(not problem.warning for problem in problems)
