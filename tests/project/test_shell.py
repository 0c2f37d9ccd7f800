"""Shell: every shell file is found and checked, and every exception has a reason.

The check itself is part of `make lint`; this shows that no file escapes it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from checkout import CHECKOUT


def shell_files(tree: Path) -> set[str]:
    """The files in *tree* that the linter treats as shell."""
    (tree / "tools").mkdir(exist_ok=True)
    program = tree / "tools" / "shell-files"
    if not program.exists():
        shutil.copy(CHECKOUT / "tools" / "shell-files", program)
    found = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name.removeprefix("./") for name in found.split("\0") if name}


def test_finds_the_shell_files_of_the_checkout() -> None:
    found = shell_files(CHECKOUT)
    assert {".ci/run", "tools/setup", "tools/lint", "tools/shell-files"} <= found
    for folder in ("dracut", "mkinitcpio"):
        for script in (CHECKOUT / folder).rglob("*.sh"):
            assert str(script.relative_to(CHECKOUT)) in found


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("plain", "#!/bin/sh"),
        ("dash", "#!/bin/dash -e"),
        ("env", "#!/usr/bin/env bash"),
        ("ash", "#!/usr/bin/ash"),
        ("a name with spaces\nand a newline", "#!/bin/bash"),
        ("module-setup.sh", "check() {"),
        ("sourced", "# shellcheck shell=bash"),
    ],
)
def test_recognises_shell_by_its_first_line_or_name(tmp_path: Path, name: str, first: str) -> None:
    (tmp_path / name).write_text(f"{first}\n:\n")
    assert name in shell_files(tmp_path)


@pytest.mark.parametrize("first", ["#!/usr/bin/env python3", "#!/usr/bin/fish", "", "sh"])
def test_other_files_are_not_shell(tmp_path: Path, first: str) -> None:
    (tmp_path / "other").write_bytes(first.encode())
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0#!/bin/sh")
    assert shell_files(tmp_path) == {"tools/shell-files"}


def test_every_exception_has_a_reason() -> None:
    unexplained = []
    for name in shell_files(CHECKOUT):
        for number, line in enumerate((CHECKOUT / name).read_text().splitlines(), 1):
            if re.search(r"#\s*shellcheck\s+disable=", line) and not re.search(
                r"disable=[SC0-9,]+\s+# \w.+", line
            ):
                unexplained.append(f"{name}:{number}: {line.strip()}")
    assert unexplained == []


@pytest.mark.requires_program("shellcheck")
def test_shellcheck_sees_a_mistake(tmp_path: Path) -> None:
    script = tmp_path / "mistake"
    script.write_text('#!/bin/sh\nrm -rf "$STEAMROOT/"*\n')
    checked = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert checked.returncode == 1
    assert "SC2115" in checked.stdout
