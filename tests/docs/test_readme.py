"""The statements of README and CONTRIBUTING are true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from checkout import CHECKOUT
from ephemeroot.hooks.operations.directories import Directory
from machine_tree import MachineTree


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    tree = MachineTree(tmp_path, block)
    persisted = {o.path for o in tree.plan().persist if isinstance(o, Directory)}
    assert {"/var/log", "/srv/photos"} <= persisted
    assert tree.problems() == []


@pytest.mark.requires_program("make")
@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_in_the_documents_exist(document: str) -> None:
    told = set(re.findall(r"\bmake ([a-z-]+)", (CHECKOUT / document).read_text()))
    listed = subprocess.run(["make", "help"], cwd=CHECKOUT, capture_output=True, text=True).stdout
    there = set(re.findall(r"^make ([a-z-]+)", listed, re.MULTILINE))
    assert {"demo", "test"} <= told
    assert told <= there
