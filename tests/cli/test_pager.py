"""Long listings on a terminal use a pager; no other output does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ephemeroot.cli import VERBS, arguments
from machine_tree import MAIN, SOUND, MachineTree

PROGRAM = Path(sys.executable).with_name("ephemeroot")


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def on_terminal(
    tree: MachineTree, *words: str, pager: str | None = "sed s/^/PAGED:/", stderr: bool = True
) -> tuple[str, int]:
    """The text that a terminal shows, and the exit code."""
    ours, its = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    if pager is not None:
        environment["PAGER"] = pager
    process = subprocess.Popen(
        [PROGRAM, "--root", tree.path, *words], stdin=its, stdout=its,
        stderr=its if stderr else subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    os.close(its)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # all processes have closed it
        pass
    os.close(ours)
    return shown.decode().replace("\r\n", "\n"), process.wait()


def test_a_listing_is_paged_with_its_colours(tree: MachineTree) -> None:
    shown, code = on_terminal(tree, "plan")
    lines = shown.splitlines()
    assert code == 0
    assert all(line.startswith("PAGED:") for line in lines), shown
    assert any("bind" in line for line in lines)
    assert "\x1b[1m" in shown
    plain, _ = on_terminal(tree, "plan", pager="cat")
    assert shown.replace("PAGED:", "") == plain


def test_keeps_warnings_and_the_exit_code(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace("files =", "fils ="))
    shown, code = on_terminal(tree, "check")
    assert code == 2
    assert "PAGED:\x1b[31merror:\x1b[0m " in shown
    shown, code = on_terminal(tree, "plan")
    assert code == 2
    assert "\x1b[31merror:\x1b[0m" in shown
    assert "PAGED" not in shown, "an error is not a listing"


@pytest.mark.parametrize("pager", ["", "cat", "no-such-pager --option", "'", "true", "head -n 1"])
def test_a_pager_that_is_missing_or_ends_early_is_not_an_error(
    tree: MachineTree, pager: str
) -> None:
    listed = "".join(f'"/srv/directory-{number}", ' for number in range(3000))
    tree.write(MAIN, SOUND.replace('["/var/log"]', f'["/var/log", {listed}]'))
    shown, code = on_terminal(tree, "plan", pager=pager)
    assert code == 0
    assert "Traceback" not in shown
    assert "Broken pipe" not in shown
    lines = {"true": 0, "head -n 1": 1}.get(pager)
    assert lines is None or len(shown.splitlines()) == lines
    assert lines is not None or "/srv/directory-2999" in shown


@pytest.mark.parametrize("words", [["plan", "--json"], ["schema"], ["--help"]])
def test_other_output_is_not_paged(tree: MachineTree, words: list[str]) -> None:
    assert "PAGED" not in on_terminal(tree, *words)[0]


def test_no_pager_without_a_terminal(tree: MachineTree) -> None:
    done = subprocess.run(
        [PROGRAM, "--root", tree.path, "plan"], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PAGER": "sed s/^/PAGED:/"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "PAGED" not in done.stdout


def test_only_read_only_verbs_are_paged() -> None:
    paged = set()

    def walk(parser: arguments.Parser, words: str) -> None:
        if parser.get_default("paged"):
            paged.add(words)
            assert parser.get_default("writes") == "nothing"
        for action in parser._actions:
            for name, below in action.choices.items() if isinstance(action.choices, dict) else ():
                walk(below, f"{words} {name}".strip())

    walk(arguments.parser(VERBS), "")
    assert paged == {"check", "plan", "status", "diff", "base diff", "roots list", "roots diff"}
