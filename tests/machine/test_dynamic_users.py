"""Directories of services with DynamicUser=, which systemd keeps in ``private``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.init import presets
from ephemeroot.machine import dynamic_users
from machine_tree import MAIN, ROOT, VOLUME, MachineTree
from nested_machine import DeclaredMachine, declared_machine, persistence

pytestmark = pytest.mark.requires_root

UNIT = "usr/lib/systemd/system/svc.service"
SETTINGS = {"lib": "StateDirectory", "cache": "CacheDirectory", "log": "LogsDirectory"}


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def unit(*lines: str) -> str:
    return "\n".join(["[Service]", "ExecStart=/usr/bin/svc", *lines, ""])


def declare(tree: MachineTree, path: str) -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n'
               f'directories = ["/var/log/journal", "{path}"]\nfiles = ["/etc/machine-id"]\n'
               )  # fmt: skip


def places(tree: MachineTree) -> set[str]:
    return {o.path for o in tree.plan().persist if isinstance(o, Directory)}


def said(tree: MachineTree, service: str = "svc.service") -> list[str]:
    return [f"{p.reason} ({p.hint})" for p in tree.problems() if service in p.reason]


@pytest.mark.parametrize("name", ["svc", "svc/deep"])
@pytest.mark.parametrize("folder", SETTINGS)
def test_binds_a_directory_of_a_service_that_never_ran_in_private(
    tree: MachineTree, folder: str, name: str
) -> None:
    tree.write(UNIT, unit("DynamicUser=yes", f"{SETTINGS[folder]}=other {name}"))
    declare(tree, f"/var/{folder}/{name}")
    private = f"/var/{folder}/private/{name}"
    assert private in places(tree)
    (line,) = said(tree)
    assert f'declare "{private}"' in line
    declare(tree, private)
    assert private in places(tree)
    assert said(tree) == []


def test_explains_a_directory_that_systemd_will_move(tree: MachineTree) -> None:
    """An earlier version of the service, or its package, created it."""
    tree.write(UNIT, unit("DynamicUser=yes", "StateDirectory=svc"))
    (tree.path / "var/lib/svc").mkdir(parents=True)
    declare(tree, "/var/lib/svc")
    (line,) = said(tree)
    assert "EBUSY" in line
    assert "systemctl restart svc.service" in line
    assert 'declare "/var/lib/private/svc"' in line


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("DynamicUser=yes", "StateDirectory=svc"), {"/var/lib/svc"}),
        (("DynamicUser=1", "StateDirectory=a b", "StateDirectory=c:link"), {"/var/lib/a",
         "/var/lib/b", "/var/lib/c"}),
        (("DynamicUser=true", "StateDirectory=a", "StateDirectory=", "StateDirectory=b"),
         {"/var/lib/b"}),
        (("DynamicUser=yes", "StateDirectory=svc-%i"), set()),
        (("DynamicUser=no", "StateDirectory=svc"), set()),
        (("StateDirectory=svc",), set()),
        (("#DynamicUser=yes", "StateDirectory=svc"), set()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("split", [False, True], ids=["unit", "drop-in"])
def test_reads_settings_as_systemd_does(
    tree: MachineTree, lines: tuple[str, ...], found: set[str], split: bool
) -> None:
    tree.write(UNIT, unit(*(() if split else lines)))
    if split:
        tree.write("etc/systemd/system/svc.service.d/local.conf", unit(*lines))
    root = os.open(tree.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert set(dynamic_users.directories(root)) == found
    finally:
        os.close(root)


@pytest.mark.parametrize("has_directory", [False, True])
def test_init_proposes_directories_that_systemd_will_create(
    tree: MachineTree, has_directory: bool
) -> None:
    """Before such a service has run, and while its directory is still in the old place."""
    preset = {"title": "", "directories": ["/var/lib/private", "/var/lib/svc"]}
    assert presets.found(str(tree.path), [preset]) == []
    tree.write(UNIT, unit("DynamicUser=yes", "StateDirectory=svc"))
    if has_directory:
        (tree.path / "var/lib/svc").mkdir(parents=True)
    (found,) = presets.found(str(tree.path), [preset])
    assert found.directories == ("/var/lib/private",)
    preset["directories"] = ["/var/lib/svc"]
    names = [path for one in presets.found(str(tree.path), [preset]) for path in one.directories]
    assert names == ["/var/lib/private/svc"] * has_directory


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[DeclaredMachine]:
    with declared_machine(tmp_path) as machine:
        yield machine


@pytest.mark.requires_loop
@pytest.mark.usefixtures("private_mounts")
def test_a_service_that_starts_for_the_first_time_keeps_its_state(
    machine: DeclaredMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts as systemd starts it; only the base has the unit, after an upgrade."""
    place = machine.top / "base" / UNIT
    place.parent.mkdir(parents=True)
    place.write_text(unit("DynamicUser=yes", "StateDirectory=svc"))
    machine.declare(persistence("/var/lib/svc", files='"/etc/machine-id"'))
    machine.apply()
    assert "/var/lib/private/svc" in capsys.readouterr().err
    lib = machine.target / "var/lib"
    for number in range(3):
        machine.next_boot()
        assert machine.said() == []
        (lib / "private").mkdir(mode=0o700, exist_ok=True)
        assert (lib / "private").stat().st_mode & 0o777 == 0o700
        (lib / "private/svc").mkdir(exist_ok=True)
        (lib / "svc").symlink_to("private/svc")
        assert sorted(os.listdir(lib / "svc")) == [f"run{n}" for n in range(number)]
        (lib / f"svc/run{number}").write_text("")
        machine.apply()


@pytest.mark.requires_loop
@pytest.mark.usefixtures("private_mounts")
def test_adopt_does_not_bind_a_directory_that_systemd_will_move(
    machine: DeclaredMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.declare(persistence(files='"/etc/machine-id"'))
    machine.apply()
    place = machine.target / UNIT
    place.parent.mkdir(parents=True)
    place.write_text(unit("DynamicUser=yes", "StateDirectory=svc"))
    (machine.target / "var/lib/svc").mkdir(parents=True)
    words = ["adopt", "--yes", "--root", str(machine.target), "/var/lib/svc"]
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert "systemd moves its directory to /var/lib/private/svc" in error
    assert "adopt /var/lib/private/svc" in error
