"""Warnings about declarations that an administrator may have forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.config import replaced
from machine_tree import DEVICE, MAIN, ROOT, SOUND, VOLUME, MachineTree

USR = VOLUME.replace("/persistent", "/usr").replace("subvol=persistent", "subvol=usr")


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def warnings(tree: MachineTree) -> dict[str, str]:
    assert tree.errors() == []
    return {problem.reason.split()[0]: problem.hint for problem in tree.problems()}


REPLACED = [(path.replace("*", "x"), one) for one in replaced.table() for path in one.paths]


@pytest.mark.parametrize(("path", "entry"), REPLACED, ids=[path for path, _ in REPLACED])
def test_warns_of_bound_files_that_programs_replace_by_rename(
    tree: MachineTree, path: str, entry: replaced.Replaced
) -> None:
    assert replaced.find(path) == entry, "no earlier pattern has it"
    assert replaced.method(path) == "copy"
    assert entry.by
    assert "," in entry.source, "the project, and where in it"
    for method in ("auto", "bind", "copy"):
        item = f'{{ file = "{path}", method = "{method}" }}'
        tree.write(MAIN, SOUND.replace('"/etc/machine-id"', f'"/etc/machine-id", {item}'))
        warned = [one for one in tree.problems() if "by rename" in one.reason]
        assert len(warned) == (entry.checked and method != "copy")
        for problem in warned:
            assert problem.warning
            assert problem.reason.startswith(f"{entry.by} replaces {path} by rename")
            assert problem.hint == 'set method = "copy"'


@pytest.mark.parametrize("path", ["/srv/etc/passwd", "/var/lib/x", "/home/u/x", "/etcetera"])
def test_does_not_warn_of_files_that_are_edited_in_place(path: str) -> None:
    assert replaced.find(path) is None


def test_does_not_warn_of_files_that_are_copied(tree: MachineTree) -> None:
    entry = '{ file = "/etc/adjtime", method = "copy" }'
    tree.write(MAIN, SOUND.replace('"/etc/machine-id"', f'"/etc/machine-id", {entry}'))
    assert tree.problems() == []


@pytest.mark.parametrize("names", [["passwd", "shadow", "group", "gshadow"], ["shadow"]])
def test_warns_unless_all_account_files_are_declared_together(
    tree: MachineTree, names: list[str]
) -> None:
    entries = ", ".join(f'{{ file = "/etc/{name}", method = "copy" }}' for name in names)
    tree.write(MAIN, SOUND.replace('"/etc/machine-id"', f'"/etc/machine-id", {entries}'))
    reasons = [problem.reason for problem in tree.problems() if problem.warning]
    expected = (
        "/etc/shadow persists, but /etc/passwd and /etc/group and /etc/gshadow of the same users "
        "do not"
    )
    assert reasons == ([] if len(names) == 4 else [expected])


@pytest.mark.parametrize(
    ("method", "exists", "warns"),
    [
        ("auto", "", True),
        ("symlink", "", True),
        ("copy", "", False),
        ("bind", "", False),
        ("auto", "persistent", False),  # it is bound
        ("auto", ".", False),  # it is seeded, and then bound
    ],
)
def test_warns_of_host_keys_that_do_not_exist_yet(
    tree: MachineTree, method: str, exists: str, warns: bool
) -> None:
    if exists:
        tree.write(f"{exists}/etc/ssh/ssh_host_rsa_key", "")
    entry = f'{{ file = "/etc/ssh/ssh_host_rsa_key", method = "{method}" }}'
    tree.write(MAIN, SOUND.replace('"/etc/machine-id"', f'"/etc/machine-id", {entry}'))
    reasons = [problem.reason for problem in tree.problems()]
    assert [("ssh-keygen -A" in reason) for reason in reasons] == [True] * warns


def test_finds_missing_declarations_with_a_base(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n')
    assert warnings(tree) == {
        "/etc/machine-id": 'declare "/etc/machine-id"', "/var/log": 'declare "/var/log"'
    }  # fmt: skip


def test_finds_missing_declarations_without_a_base(tree: MachineTree) -> None:
    tree.write("etc/ssh/ssh_host_ed25519_key", "")
    tree.write(MAIN, SOUND.replace('base = "root-base"', "") + USR)
    assert warnings(tree) == {
        "/etc/passwd": 'declare { file = "/etc/passwd", method = "copy" }',
        "/etc/shadow": 'declare { file = "/etc/shadow", method = "copy" }',
        "/etc/group": 'declare { file = "/etc/group", method = "copy" }',
        "/etc/ssh/ssh_host_ed25519_key": 'declare "/etc/ssh/ssh_host_ed25519_key"',
    }


def test_a_declared_parent_or_a_volume_is_enough(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('"/var/log"', '"/etc"').replace('["/etc/machine-id"]', "[]")
               + USR.replace("/usr", "/var").replace("subvol=usr", "subvol=var"))  # fmt: skip
    assert tree.problems() == []


def test_warns_of_a_configuration_without_a_store(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT)
    (problem,) = tree.problems()
    assert problem.warning
    assert "no file survives a boot" in problem.reason
    assert DEVICE not in problem.reason
