"""`check` reports links that lead through a directory which their user cannot search."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from machine_tree import MAIN, ROOT, VOLUME, MachineTree

COLORD, TALYZ = 120, 1000
METHODS = ("bind", "symlink", "auto")
MODES = (0o755, 0o711, 0o700, 0o750)


def declare(tree: MachineTree, method: str, *, users: bool) -> None:
    kind = "file" if method == "auto" else "directory"
    path = "data" if users else "/var/lib/colord/data"
    entry = f'{{ {kind} = "{path}", user = "colord", group = "colord", method = "{method}" }}'
    if users:
        entry = f'{{ {kind} = "{path}", method = "{method}" }}'
    listed = {"files": '"/etc/machine-id"', "directories": '"/var/log"'}
    key = "files" if kind == "file" else "directories"
    more = ""
    if users:
        more = f'[persistence."/persistent".users.talyz]\n{key} = [{entry}]\n'
    else:
        listed[key] += f", {entry}"
    lines = "".join(f"{name} = [{entries}]\n" for name, entries in listed.items())
    tree.write(MAIN, f'{ROOT}{VOLUME}[persistence."/persistent"]\n{lines}{more}')


@pytest.mark.requires_root
@pytest.mark.parametrize(("method", "mode", "users", "deep"), [
    (method, mode, users, deep)
    for method, mode in itertools.product(METHODS, MODES)
    for users, deep in itertools.product((False, True), repeat=2)
])  # fmt: skip
def test_reports_a_link_through_a_directory_that_the_user_cannot_search(
    tmp_path: Path, method: str, mode: int, users: bool, deep: bool
) -> None:
    tree = MachineTree(tmp_path)
    closed = "/persistent/home" if users else "/persistent/var"
    if not deep:
        closed = "/persistent"
    place = tree.path / closed[1:]
    place.mkdir(exist_ok=True)
    place.chmod(mode)
    declare(tree, method, users=users)
    said = [p.reason for p in tree.problems() if "no search permission" in p.reason]
    if method == "bind" or mode & 0o001:
        assert said == []
    else:
        (reason,) = said
        assert reason.startswith(f"the user {TALYZ if users else COLORD} cannot follow the link")
        assert reason.endswith(f"no search permission on {closed}")


@pytest.mark.requires_root
def test_accepts_a_directory_that_the_owner_or_group_may_search(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    place = tree.path / "persistent"
    for mode, owner in ((0o700, (COLORD, 0)), (0o710, (0, 121))):
        place.chmod(mode)
        os.chown(place, *owner)
        declare(tree, "symlink", users=False)
        assert not [p for p in tree.problems() if "no search permission" in p.reason]
