"""Declared paths through symbolic links are sorted, compared and refused by their targets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from machine_tree import MAIN, ROOT, VOLUME, MachineTree
from nested_machine import DeclaredMachine, declared_machine, persistence

pytestmark = pytest.mark.requires_root

LINKS = {
    "relative": ("srv", "data/srv"),
    "absolute": ("srv", "/data/srv"),
    "upwards": ("srv", "data/../data/srv"),
    "two": ("srv", "other"),
}


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    tree = MachineTree(tmp_path)
    (tree.path / "data/srv").mkdir(parents=True)
    (tree.path / "other").symlink_to("data/srv")
    return tree


def declare(tree: MachineTree, directories: str = "", files: str = "", more: str = "") -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n'
               f'directories = ["/var/log", {directories}]\n'
               f'files = ["/etc/machine-id", {files}]\n{more}')  # fmt: skip


def places(tree: MachineTree) -> dict[str, str]:
    """The store's source of each directory and file of the plan, by its path."""
    found: list[Operation] = tree.plan().persist
    return {o.path: o.source for o in found if isinstance(o, Directory | File)}


@pytest.mark.parametrize("link", LINKS)
def test_resolves_a_link_in_a_parent(tree: MachineTree, link: str) -> None:
    name, target = LINKS[link]
    (tree.path / name).symlink_to(target)
    declare(tree, '"/srv/www"', '"/srv/note"')
    found = places(tree)
    assert found["/data/srv/www"] == "data/srv/www"
    assert found["/data/srv/note"] == "data/srv/note"
    assert "/srv/www" not in found


def test_uses_content_that_the_store_has_under_the_declared_path(tree: MachineTree) -> None:
    (tree.path / "srv").symlink_to("data/srv")
    (tree.path / "persistent/srv/www").mkdir(parents=True)
    declare(tree, '"/srv/www"')
    assert places(tree)["/data/srv/www"] == "srv/www"


@pytest.mark.parametrize("names", [("/srv/www", "/data/srv/www"), ("/data/srv/www", "/srv/www")])
def test_two_names_of_one_path_are_a_duplicate(tree: MachineTree, names: tuple[str, str]) -> None:
    first, second = names
    (tree.path / "srv").symlink_to("data/srv")
    declare(tree, f'"{first}", "{second}"')
    assert "is declared twice" in tree.complaint()
    assert "/data/srv/www" in tree.complaint()


def test_refuses_a_link_into_a_filesystem_that_every_boot_mounts(tree: MachineTree) -> None:
    (tree.path / "run").mkdir()
    (tree.path / "var").mkdir(exist_ok=True)
    (tree.path / "var/run").symlink_to("../run")
    declare(tree, '"/var/run/thing"')
    reason = "/var/run/thing (which leads to /run/thing) is below /run, where every boot mounts"
    assert reason in tree.complaint()


def test_resolves_homes_behind_a_link(tree: MachineTree) -> None:
    (tree.path / "var/home/talyz").mkdir(parents=True)
    (tree.path / "home").symlink_to("var/home")
    declare(tree, more='[persistence."/persistent".users.talyz]\ndirectories = ["Music"]\n')
    music = next(
        o for o in tree.plan().persist if getattr(o, "path", "") == "/var/home/talyz/Music"
    )
    assert isinstance(music, Directory)
    assert (music.user, music.group) == (1000, 1001)
    home = next(o for o in tree.plan().persist if getattr(o, "path", "") == "/var/home/talyz")
    assert getattr(home, "mode", 0) == 0o700


def test_does_not_follow_links_that_a_user_made(tree: MachineTree) -> None:
    (tree.path / "home/talyz").mkdir(parents=True)
    os.chown(tree.path / "home/talyz", 1000, 1001)
    link = tree.path / "home/talyz/.config"
    link.symlink_to("/etc")
    os.lchown(link, 1000, 1001)
    declare(tree, more='[persistence."/persistent".users.talyz]\ndirectories = [".config/x"]\n')
    assert "/home/talyz/.config/x" in places(tree)


def test_does_not_follow_links_that_a_boot_made(tree: MachineTree) -> None:
    (tree.path / "persistent/srv/tool").mkdir(parents=True)
    (tree.path / "srv").mkdir()
    (tree.path / "srv/tool").symlink_to("/persistent/srv/tool")
    declare(tree, '{ directory = "/srv/tool", method = "symlink" }')
    assert "/srv/tool" in places(tree)


def test_a_package_database_behind_a_link_is_found_at_its_target(tree: MachineTree) -> None:
    (tree.path / "usr/lib/sysimage/rpm").mkdir(parents=True)
    (tree.path / "var/lib").mkdir(parents=True)
    (tree.path / "var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
    declare(tree, '"/var/lib"')
    assert tree.errors() == []


@pytest.mark.parametrize("has_link", [True, False])
@pytest.mark.parametrize("folder", ["lib", "cache"])
def test_the_state_of_a_dynamic_user_is_in_private(
    tree: MachineTree, folder: str, has_link: bool
) -> None:
    (tree.path / "var" / folder / "private/svc").mkdir(parents=True)
    if has_link:
        (tree.path / "var" / folder / "svc").symlink_to("private/svc")
    declare(tree, f'"/var/{folder}/svc"')
    assert f"/var/{folder}/private/svc" in places(tree)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[DeclaredMachine]:
    with declared_machine(tmp_path) as machine:
        yield machine


@pytest.mark.requires_loop
@pytest.mark.usefixtures("private_mounts")
def test_the_service_of_a_dynamic_user_keeps_its_state(machine: DeclaredMachine) -> None:
    """It is declared by the name in /var/lib; the service makes this link at each start."""
    lib = machine.target / "var/lib"
    (lib / "private").mkdir(parents=True, mode=0o700)
    (lib / "private/svc").mkdir()
    (lib / "private/svc/state").write_text("0")
    (lib / "svc").symlink_to("private/svc")
    machine.declare(persistence("/var/lib/svc", files='"/etc/machine-id"'))
    machine.apply()
    for number in range(3):
        machine.next_boot()
        assert machine.said() == []
        assert (lib / "private").stat().st_mode & 0o777 == 0o700
        assert not os.path.lexists(lib / "svc")
        (lib / "svc").symlink_to("private/svc")
        assert (lib / "svc/state").read_text() == str(number)
        (lib / "svc/state").write_text(str(number + 1))
        machine.apply()
        assert (
            subprocess.run(["mountpoint", "-q", lib / "private/svc"], check=False).returncode == 0
        )
