"""The table of ordinary tasks is the same in the help, the manual and the guide."""

from __future__ import annotations

import re
import shlex

import pytest

from checkout import CHECKOUT
from ephemeroot.cli import VERBS, arguments, main
from ephemeroot.status import tasks


def test_the_help_of_status_has_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--help"]) == 0
    out = capsys.readouterr().out
    assert tasks.text() in out
    assert max(len(line) for line in tasks.text().splitlines()) <= 80


def test_the_guide_has_the_table() -> None:
    text = (CHECKOUT / "docs/converting-debian.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert rows[-len(tasks.TASKS) :] == [(t.name, t.needs, t.how) for t in tasks.TASKS]


def test_the_manual_has_the_table() -> None:
    page = (CHECKOUT / "man/ephemeroot.8").read_text().replace("\\-", "-")
    section = page.partition(".Sh ORDINARY TASKS\n")[2].partition("\n.Sh ")[0]
    found = re.findall(r"^\.It (.+)\n\.Em (.+) :\n((?:[^.].*\n?)+)", section, re.MULTILINE)
    shown = [(name, needs, " ".join(how.split())) for name, needs, how in found]
    assert shown == [(t.name, t.needs, t.how) for t in tasks.TASKS]


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.name)
def test_its_commands_are_valid_command_lines(task: tasks.Task) -> None:
    for line in re.findall(r"ephemeroot ([a-z].*?)(?:,| shows| and | if |;| names|$)", task.how):
        words = shlex.split(line)
        if words != ["base", "run"]:
            assert arguments.parser(VERBS).parse_args(words).run, line
    verbs = [] if task.needs in ("nothing", "roots") else task.needs.split(", ")
    assert all(verb.split()[0] in VERBS for verb in verbs)
    mentioned = [verb for verb in ("base run", "adopt", "apply", "next-boot") if verb in task.how]
    assert set(verbs) <= {*mentioned, "apply" if "--apply" in task.how else ""}


def test_it_has_the_tasks_of_the_first_day() -> None:
    names = " ".join(task.name for task in tasks.TASKS)
    for word in ("package", "file in /etc", "unit", "user", "host name", "time zone", "/etc/fstab"):
        assert word in names
