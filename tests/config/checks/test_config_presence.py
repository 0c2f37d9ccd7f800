"""`check` reports declared paths that have another file type in the live root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine_tree import MAIN, ROOT, VOLUME, MachineTree


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def declare(tree: MachineTree, directories: str = "", files: str = "", more: str = "") -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n'
               f'directories = ["/var/log", {directories}]\n'
               f'files = ["/etc/machine-id", {files}]\n{more}')  # fmt: skip


def warnings(tree: MachineTree) -> list[str]:
    return [f"{p.reason} ({p.hint})" for p in tree.problems() if p.warning]


@pytest.mark.parametrize("method", ["bind", "symlink", "overlay"])
def test_reports_a_declared_directory_that_is_a_file(tree: MachineTree, method: str) -> None:
    tree.write("etc/tool.conf", "settings")
    declare(tree, f'{{ directory = "/etc/tool.conf", method = "{method}" }}')
    expected = "/etc/tool.conf is declared as a directory, but is a file (declare it in files)"
    assert tree.complaint() == expected


@pytest.mark.parametrize("method", ["auto", "bind", "symlink", "copy"])
def test_reports_a_declared_file_that_is_a_directory(tree: MachineTree, method: str) -> None:
    (tree.path / "etc/net").mkdir()
    declare(tree, files=f'{{ file = "/etc/net", method = "{method}" }}')
    expected = "/etc/net is declared as a file, but is a directory (declare it in directories)"
    assert tree.complaint() == expected


def test_accepts_a_users_file_that_is_a_directory(tree: MachineTree) -> None:
    (tree.path / "home/talyz/.games").mkdir(parents=True)
    declare(tree, more='[persistence."/persistent".users.talyz]\nfiles = [".games"]\n')
    assert tree.errors() == []


@pytest.mark.parametrize("method", ["auto", "bind", "symlink", "copy"])
def test_advises_the_method_copy_for_a_link(tree: MachineTree, method: str) -> None:
    (tree.path / "etc/localtime").symlink_to("../usr/share/zoneinfo/UTC")
    declare(tree, files=f'{{ file = "/etc/localtime", method = "{method}" }}')
    assert tree.errors() == []
    said = [text for text in warnings(tree) if "/etc/localtime is a symbolic link" in text]
    assert len(said) == (method != "copy")
    assert all('set method = "copy"' in text for text in said)


def test_accepts_a_link_into_the_store(tree: MachineTree) -> None:
    os.symlink("/persistent/etc/tool", tree.path / "etc/tool")
    declare(tree, files='"/etc/tool"')
    assert not any("symbolic link" in text for text in warnings(tree))


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_warns_that_a_link_does_not_replace_existing_content(tree: MachineTree, kind: str) -> None:
    if kind == "directory":
        (tree.path / "srv/tool").mkdir(parents=True)
        declare(tree, '{ directory = "/srv/tool", method = "symlink" }')
    else:
        tree.write("srv/tool", "settings")
        declare(tree, files='{ file = "/srv/tool", method = "symlink" }')
    assert tree.errors() == []
    reason = f"cannot link /srv/tool: the live root has a {kind} there"
    assert any(reason in text for text in warnings(tree))
