"""The file type of a declared path is part of its value: a link stays a link, a file a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nested_machine import DeclaredMachine, declared_machine, persistence

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

ZONES = ("UTC", "Europe/Oslo", "Asia/Tokyo", "Europe/Rome", "Africa/Lagos")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[DeclaredMachine]:
    with declared_machine(tmp_path) as machine:
        yield machine


def declare(machine: DeclaredMachine, *directories: str, files: str = "") -> None:
    machine.declare(persistence(*directories, files=f'"/etc/machine-id", {files}'))
    machine.apply()


def zone(name: str) -> str:
    return f"../usr/share/zoneinfo/{name}"


def set_zone(machine: DeclaredMachine, name: str) -> None:
    """As timedatectl(1) does it: a new link, renamed over the existing one."""
    etc = machine.target / "etc"
    (etc / ".localtime").symlink_to(zone(name))
    (etc / ".localtime").rename(etc / "localtime")


@pytest.mark.parametrize("copy_back", [True, False], ids=["shut down", "power cut"])
@pytest.mark.parametrize("base", ["link", "file", "absent"])
def test_a_link_persists_as_a_link(machine: DeclaredMachine, base: str, copy_back: bool) -> None:
    place = machine.top / "base/etc/localtime"
    if base == "link":
        place.symlink_to(zone("UTC"))
    elif base == "file":
        place.write_text("TZif")
    declare(machine, files='{ file = "/etc/localtime", method = "copy" }')
    for name in ZONES:
        set_zone(machine, name)
        machine.power_off(copy_back=copy_back and machine.boots > 0)
        machine.boot()
        assert machine.said() == []
        assert os.readlink(machine.target / "etc/localtime") == zone(name)
        assert os.readlink(machine.top / "one/etc/localtime") == zone(name)


def test_a_link_and_a_file_replace_each_other(machine: DeclaredMachine) -> None:
    declare(machine, files='{ file = "/etc/resolv.conf", method = "copy" }')
    place = machine.target / "etc/resolv.conf"
    place.symlink_to("../run/resolv.conf")
    machine.next_boot()
    assert os.readlink(place) == "../run/resolv.conf"
    place.unlink()
    place.write_text("nameserver 192.0.2.1\n")
    machine.next_boot()
    assert place.read_text() == "nameserver 192.0.2.1\n"
    place.unlink()
    place.symlink_to("../run/resolv.conf")
    machine.next_boot()
    assert os.readlink(place) == "../run/resolv.conf"
    assert machine.said() == []


def test_a_link_never_replaces_account_files(machine: DeclaredMachine) -> None:
    names = ("passwd", "group", "shadow", "gshadow")
    (machine.target / "etc/shadow").write_text("root:*::::::\n")
    (machine.target / "etc/gshadow").write_text("root:*::\n")
    files = ", ".join(f'{{ file = "/etc/{name}", method = "copy" }}' for name in names)
    declare(machine, files=files)
    machine.next_boot()
    passwd = machine.target / "etc/passwd"
    kept = passwd.read_text()
    passwd.unlink()
    passwd.symlink_to("/tmp/passwd")
    machine.next_boot()
    assert any("/etc/passwd" in text and "symbolic link" in text for text in machine.said())
    assert passwd.read_text() == kept
    assert not passwd.is_symlink()


@pytest.mark.parametrize("method", ["auto", "bind", "symlink"])
def test_other_methods_name_the_method_for_links(machine: DeclaredMachine, method: str) -> None:
    (machine.top / "base/etc/localtime").symlink_to(zone("UTC"))
    declare(machine, files=f'{{ file = "/etc/localtime", method = "{method}" }}')
    set_zone(machine, "Europe/Oslo")
    machine.next_boot()
    (problem,) = machine.said()
    assert "is a symbolic link in the root" in problem
    assert not os.path.lexists(machine.top / "one/etc/localtime")
    declare(machine, files='{ file = "/etc/localtime", method = "copy" }')
    machine.next_boot()
    assert machine.said() == []
    assert os.readlink(machine.target / "etc/localtime") == zone("UTC")


@pytest.mark.parametrize("method", ["bind", "symlink"])
def test_a_wrong_type_does_not_prevent_the_corrected_declaration(
    machine: DeclaredMachine, method: str
) -> None:
    for top in (machine.top / "base", machine.target):
        (top / "etc/net").mkdir()
        (top / "etc/net/conf").write_text("key")
        (top / "etc/tool.conf").write_text("settings")
    wrong = f'{{ directory = "/etc/tool.conf", method = "{method}" }}'
    # `check` refuses both: an older program, or another root, has made this plan.
    machine.declare(persistence(wrong, files='"/etc/machine-id", "/etc/net"'))
    places = [
        top / name
        for top in (machine.top / "base", machine.target)
        for name in ("etc/net", "etc/tool.conf")
    ]
    for place in places:
        place.rename(place.with_name(f"{place.name}.away"))
    machine.apply()
    for place in places:
        place.with_name(f"{place.name}.away").rename(place)
    machine.next_boot()
    assert sorted("declared as a" in text for text in machine.said()) == [True, True]
    assert not os.path.lexists(machine.top / "one/etc/net")
    assert not os.path.lexists(machine.top / "one/etc/tool.conf")
    declare(machine, "/etc/net", files='"/etc/tool.conf"')
    machine.next_boot()
    assert machine.said() == []
    assert (machine.target / "etc/net").is_mount()
    assert (machine.target / "etc/net/conf").read_text() == "key"
    assert (machine.target / "etc/tool.conf").read_text() == "settings"


def test_a_users_file_that_is_a_directory_is_linked(machine: DeclaredMachine) -> None:
    for top in (machine.top / "base", machine.target):
        with (top / "etc/passwd").open("a") as file:
            file.write("ada:x:1000:1000::/home/ada:/bin/sh\n")
        (top / "home/ada").mkdir(parents=True)
        os.chown(top / "home/ada", 1000, 1000)
    games = machine.target / "home/ada/.games"
    games.mkdir()
    (games / "score").write_text("7")
    machine.declare(
        persistence(files='"/etc/machine-id"')
        + '[persistence."/one".users.ada]\nfiles = [".games"]\n'
    )
    machine.apply()
    for _ in range(2):
        machine.next_boot()
        assert machine.said() == []
        assert os.readlink(games) == "/one/home/ada/.games"
        assert (machine.target / "one/home/ada/.games/score").read_text() == "7"
