"""Steps of verbs: one class describes and executes, and one runner handles dry runs and
failures.
"""

from __future__ import annotations

import ast
import errno
import os
import signal
from pathlib import Path

import pytest

from checkout import CHECKOUT
from ephemeroot.cli import steps
from ephemeroot.execution import DRY_RUN, Action, Execution, Interrupted
from ephemeroot.step import Step


class Write(Step):
    """Write a file, and fail if it exists."""

    def __init__(self, path: Path, *, goes_on: bool) -> None:
        self.path = path
        self.GOES_ON = goes_on

    def describe(self) -> str:
        return f"write {self.path.name}"

    def execute(self) -> str:
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
        return "written"


def writes(folder: Path, *, goes_on: bool) -> list[Write]:
    (folder / "b").touch()
    return [Write(folder / name, goes_on=goes_on) for name in "abc"]


def test_a_dry_run_prints_the_lines_of_the_run_and_does_nothing(tmp_path: Path) -> None:
    todo = writes(tmp_path, goes_on=True)
    dry, real = Execution(dry_run=True), Execution()
    assert {result.text for result in dry.run(todo)} == {DRY_RUN}
    assert os.listdir(tmp_path) == ["b"]
    real.run(todo)
    assert dry.lines == real.lines == ["write a", "write b", "write c"]


def test_a_failure_ends_the_run_unless_the_step_allows_more(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        Execution().run(writes(tmp_path, goes_on=False))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    (tmp_path / "a").unlink()
    execution = Execution()
    a, b, c = execution.run(writes(tmp_path, goes_on=True))
    assert (a.text, c.text) == ("written", "written")
    assert b.failed
    assert execution.failed
    assert execution.problems == [f"write b: {tmp_path / 'b'}: {os.strerror(errno.EEXIST)}"]
    assert b.as_json() == {"step": "write b", "result": f"failed: {b.reason}"}


@pytest.mark.parametrize("quiet", [False, True])
def test_long_steps_are_announced_before_they_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    for dry_run, end in ((True, f": {DRY_RUN}"), (False, "")):
        lines: list[str] = []
        execution = steps.announced(lines, dry_run=dry_run, quiet=quiet)
        execution.run([Action("look", lambda: capsys.readouterr().out)])
        said = execution.results[0].outcome or capsys.readouterr().out
        assert said == ("" if quiet else f"look{end}\n")
        assert lines == ["look"]


def test_an_interruption_names_the_interrupted_step() -> None:
    def interrupted() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
        return ""

    with pytest.raises(Interrupted, match=r"\Acopy /srv\Z"):
        Execution().run([Action("copy /srv", interrupted)])


def test_every_class_that_describes_and_executes_is_a_step_or_an_operation() -> None:
    bases: dict[str, set[str]] = {}  # by name, including all classes of that name
    both = set()
    for folder in ("ephemeroot", "hooks", "wipers"):
        for file in (CHECKOUT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef):
                    above = {one.id for one in node.bases if isinstance(one, ast.Name)}
                    bases.setdefault(node.name, set()).update(above)
                    methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                    if {"describe", "execute"} <= methods:
                        both.add(node.name)

    def derives(name: str) -> bool:
        return name in ("Step", "Operation") or any(map(derives, bases.get(name, ())))

    assert len(both) > 30
    assert {name for name in both if not derives(name)} == set()
