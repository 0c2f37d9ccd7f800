"""``ephemeroot plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ephemeroot.cli import main
from ephemeroot.hooks import limits, plan
from machine_tree import IDENTITY, MAIN, SOUND, MachineTree


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def test_prints_the_stages_with_the_source_of_each_line(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--root", str(tree.path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "before the root is mounted:",
        "under the new root:",
        "on failure: wipe: keep, store: emergency, path: continue",
        f"seeding, copying, comparing: {limits.describe(tree.plan().seed_limit)}",
    ]
    described = [o.describe() for o in (*tree.plan().wipe, *tree.plan().persist)]
    steps = [line for line in lines if line.startswith("  ")]
    assert [step[2 : 2 + len(text)] for step, text in zip(steps, described, strict=True)] == (
        described
    )
    store = f"  require that /persistent is the store {IDENTITY}"
    (line,) = [step for step in steps if step.startswith(store)]
    assert line.endswith(f'  {tree.show()}:10: persistence."/persistent"')


def test_aligns_the_sources(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--root", str(tree.path)])
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    columns = {step.index(tree.show()) for step in steps if step.index(tree.show()) <= 104}
    assert len(columns) == 1


def test_json_is_the_plan(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--root", str(tree.path)]) == 0
    raw = capsys.readouterr().out.encode()
    assert raw == tree.plan().dump()
    assert plan.parse(raw).host == "kiosk-7"


def test_warnings_go_to_standard_error(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.path / "persistent/.ephemeroot-store").unlink()
    assert main(["plan", "--root", str(tree.path)]) == 0
    captured = capsys.readouterr()
    assert "(no marker yet)" in captured.out
    assert captured.err == (
        f'warning: {tree.show()}:10: persistence."/persistent": the store /persistent '
        "has no marker\n  hint: run 'ephemeroot apply' to write it\n"
    )


def test_mistakes_prevent_a_plan(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.write(MAIN, SOUND.replace("files =", "fils =").replace("noatime", "noatime,ro"))
    assert main(["plan", "--root", str(tree.path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 2
    assert "unknown key `fils`\n  hint: did you mean `files`?\n" in captured.err
    assert main(["plan", "--json", "--root", str(tree.path)]) == 2
    captured = capsys.readouterr()
    assert (json.loads(captured.out)["format"], captured.err) == ("ephemeroot-error", "")


def test_another_configuration_for_the_same_machine(
    tree: MachineTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(SOUND.replace("/var/log", "/srv"))
    assert main(["plan", "--root", str(tree.path), "--config", str(other)]) == 0
    out = capsys.readouterr().out
    assert "bind directory /srv from /persistent" in out
    assert f"{other}:11" in out
