"""The rules of docs/testing.md that are easily forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from checkout import CHECKOUT

MODULES = sorted((CHECKOUT / "vm-tests").glob("test_*.py"))

REASON = re.compile(r"^\s*(Only a boot shows|Without a boot:) \S[^.]*\.", re.MULTILINE)


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


def test_vm_tests_exist() -> None:
    assert sum(len(functions(path)) for path in MODULES) > 50


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_boot_has_a_reason(path: Path) -> None:
    missing = [f.name for f in functions(path) if not REASON.search(ast.get_docstring(f) or "")]
    assert missing == [], "say in the docstring what only a boot shows (docs/testing.md)"


@pytest.mark.parametrize("name", [".ci/run", "Makefile", "tools/side-by-side"])
def test_no_test_is_retried(name: str) -> None:
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    for word in ("--last-failed", "--lf", "--reruns", "flaky"):
        assert word not in text


def test_no_plug_in_for_retries_is_installed() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert "rerunfailures" not in text
    assert "flaky" not in text


WITHOUT_A_FOLDER_OF_CODE = {"support", "harness", "project", "docs", "cli/every_verb"}
"""Folders of tests that belong to no folder of the program, or that hold for all verbs."""


def test_tests_are_in_the_folders_of_the_tested_code() -> None:
    tests = CHECKOUT / "tests"
    folders = {str(path.parent.relative_to(tests)) for path in tests.rglob("test_*.py")}
    code = {
        folder
        for folder in folders
        if any((CHECKOUT / top / folder / "__init__.py").exists() for top in ("", "ephemeroot"))
    }
    assert folders - code - WITHOUT_A_FOLDER_OF_CODE == set()
    assert {"hooks", "wipers/btrfs", "linux", "config/syntax", "cli/roots"} <= code


def test_no_test_imports_another() -> None:
    """Shared code is in tests/support, whose modules are found by their names alone."""
    for path in (CHECKOUT / "tests").rglob("*.py"):
        found = re.findall(r"^\s*(?:from|import) test_\w+", path.read_text("utf-8"), re.MULTILINE)
        assert found == [], path
