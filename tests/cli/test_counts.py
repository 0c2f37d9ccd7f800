"""How much work a start and a boot do, counted: times on a shared machine say nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ephemeroot
from counts import require_at_most_recorded
from machine_tree import MachineTree
from programs import PROGRAM

START = """
import sys
from ephemeroot.cli import main
main(sys.argv[1:])
run = [name for name, module in sys.modules.items() if type(module) is type(sys)]
sys.stderr.write("modules: " + " ".join(run))
"""
STAGE = """
import sys
sys.path[:0] = [{path!r}]
from ephemeroot.hooks.__main__ import main
main(["wipe", "--plan", {plan!r}, "--target", "/nonexistent", "--run", {run!r},
      "--cmdline", "{words}"])
sys.stderr.write("modules: " + " ".join(sys.modules))
"""

UNNEEDED = {
    "importlib.metadata", "importlib.resources", "email", "socket", "subprocess", "shutil",
    "py_compile", "difflib", "tempfile", "zipfile", "bz2", "lzma",
}  # fmt: skip
"""Modules of the standard library that a valid configuration does not need."""


def modules(text: str) -> set[str]:
    return set(text.partition("modules: ")[2].split())


def own(names: set[str]) -> int:
    return sum(name.partition(".")[0] == "ephemeroot" for name in names)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["check", "--help"]])
def test_modules_imported_by_a_start_without_configuration(words: list[str]) -> None:
    found = started(words)
    assert found.isdisjoint(UNNEEDED)
    require_at_most_recorded(f"modules of {' '.join(words)}", own(found))


@pytest.mark.parametrize("verb", ["check", "status"])
def test_modules_imported_by_a_verb_with_a_valid_configuration(verb: str, tmp_path: Path) -> None:
    MachineTree(tmp_path)
    found = started([verb, "--root", str(tmp_path)])
    assert found.isdisjoint(UNNEEDED)
    require_at_most_recorded(f"modules of {verb}", own(found))


def started(words: list[str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", START, *words], capture_output=True, text=True, check=True
    )
    return modules(done.stderr)


@pytest.mark.parametrize("words", ["ephemeroot=no", "ephemeroot.wipe=no"])
def test_modules_imported_by_a_stage_that_changes_nothing(words: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(MachineTree(tmp_path / "machine").plan().dump())
    packages = str(Path(ephemeroot.__file__).parent.parent)
    code = STAGE.format(path=packages, plan=str(plan), run=str(tmp_path / "run"), words=words)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    found = modules(done.stderr)
    assert found.isdisjoint({"json", "re", "enum", "functools", "collections", "typing"})
    require_at_most_recorded(f"modules of a stage, {words}", own(found))


@pytest.mark.requires_program("strace")
def test_does_not_search_for_translations(tmp_path: Path) -> None:
    """`argparse` would search for each of its texts in every folder of the language."""
    trace = tmp_path / "trace"
    words = ["strace", "-f", "-qq", "-e", "trace=%file", "-o", str(trace), str(PROGRAM)]
    environment = os.environ | {"LANGUAGE": "de_DE:fr", "LANG": "de_DE.UTF-8"}
    subprocess.run(
        [*words, "check", "--help"], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    seen = trace.read_text()
    assert "ephemeroot" in seen
    assert "LC_MESSAGES" not in seen
