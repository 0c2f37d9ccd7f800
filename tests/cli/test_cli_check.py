"""``ephemeroot check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ephemeroot.cli import main
from machine_tree import MAIN, SOUND, MachineTree


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def test_accepts_a_configuration_without_problems(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--root", str(tree.path)]) == 0
    assert capsys.readouterr().out == "1 file checked: no problems\n"


def test_prints_every_problem_and_a_summary(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.path / "persistent/.ephemeroot-store").unlink()
    tree.write(MAIN, SOUND.replace("noatime", "noatime,ro").replace("files =", "fils ="))
    assert main(["--root", str(tree.path), "check"]) == 2
    captured = capsys.readouterr()
    store = 'persistence."/persistent"'
    assert captured.err == ""
    assert captured.out.splitlines() == [
        f"error: {tree.show()}:9: volumes[0].options[1]: 'noatime,ro' contains several options",
        "  hint: write one string for each option",
        f"error: {tree.show()}:12: {store}.fils: unknown key `fils`",
        "  hint: did you mean `files`?",
        (
            f"warning: {tree.show()}:3: root.btrfs: /etc/machine-id does not persist: each boot "
            "has another machine id, for example for its journal and DHCP"
        ),
        '  hint: declare "/etc/machine-id"',
        f"warning: {tree.show()}:10: {store}: the store /persistent has no marker",
        "  hint: run 'ephemeroot apply' to write it",
        "1 file checked: 2 errors, 2 warnings",
    ]


def test_warnings_alone_are_not_a_failure(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.path / "persistent/.ephemeroot-store").unlink()
    assert main(["check", "--root", str(tree.path)]) == 0
    assert capsys.readouterr().out.endswith("1 file checked: 0 errors, 1 warning\n")


@pytest.mark.parametrize("broken", [False, True])
def test_plan_prints_the_same_problems_as_check(
    tree: MachineTree, capsys: pytest.CaptureFixture[str], *, broken: bool
) -> None:
    (tree.path / "persistent/.ephemeroot-store").unlink()
    if broken:
        tree.write(MAIN, SOUND.replace("noatime", "noatime,ro").replace("files =", "fils ="))
    main(["check", "--root", str(tree.path)])
    *checked, _ = capsys.readouterr().out.splitlines()
    main(["plan", "--root", str(tree.path)])
    assert checked
    assert capsys.readouterr().err.splitlines() == checked


def test_check_prints_json(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.write(MAIN, SOUND.replace("files =", "fils ="))
    assert main(["check", "--json", "--root", str(tree.path)]) == 2
    content = json.loads(capsys.readouterr().out)
    problems = content.pop("problems")
    assert content == {"format": "ephemeroot-check", "version": 1, "host": "kiosk-7",
                       "machine-id": "0123456789abcdef0123456789abcdef", "files": [tree.show()],
                       "for-other-machines": [],
                       "errors": 1, "warnings": 1}  # fmt: skip
    assert [p for p in problems if p["severity"] == "error"] == [
        {"file": tree.show(), "line": 12, "key": 'persistence."/persistent".fils',
         "reason": "unknown key `fils`", "hint": "did you mean `files`?", "severity": "error"}
    ]  # fmt: skip


def test_control_characters_do_not_reach_the_terminal(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write(MAIN, SOUND.replace('"/var/log"', r'"/run/\u001b[2J\nx"'))
    assert main(["check", "--root", str(tree.path)]) == 2
    out = capsys.readouterr().out
    assert "/run/\\x1b[2J\\nx" in out
    assert "\x1b" not in out
