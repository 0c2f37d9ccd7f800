"""Users and groups are looked up in the root that the machine runs."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from ephemeroot.machine.accounts import Accounts
from machine_tree import MachineTree


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    tree = MachineTree(tmp_path)
    tree.write("etc/group", "root:x:0:\nvideo:x:44:talyz\n12:x:500:\nbroken\n")
    tree.write("usr/lib/passwd", "video-user:x:7:7::/:/bin/sh\ntalyz:x:9999:1::/x:/bin/sh\n")
    return Accounts.of(str(tmp_path))


def test_finds_users_by_name_and_number(accounts: Accounts) -> None:
    assert accounts.uid("colord") == 120
    assert accounts.uid(77) == 77
    assert accounts.uid("77") == 77
    assert accounts.gid("video") == 44
    assert accounts.gid("12") == 500  # a name takes precedence, as in chown(1)
    assert accounts.gid("13") == 13
    assert accounts.uid("nobody-here") is None
    assert accounts.gid("nobody-here") is None
    assert accounts.uid(str(2**32 - 1)) is None


def test_etc_takes_precedence_over_the_base(accounts: Accounts) -> None:
    assert accounts.uid("video-user") == 7
    assert accounts.uid("talyz") == 1000


def test_root_always_exists(tmp_path: Path) -> None:
    accounts = Accounts.of(str(tmp_path))
    assert accounts.uid("root") == accounts.gid("root") == 0
    user = accounts.user("root")
    assert user is not None
    assert user.home == "/root"


def test_does_not_use_this_machines_users_for_another_root(tmp_path: Path) -> None:
    here = next(entry for entry in pwd.getpwall() if entry.pw_name != "root")
    assert Accounts.of(str(tmp_path)).uid(here.pw_name) is None
    assert Accounts.of("/").uid(here.pw_name) == here.pw_uid


def test_asks_this_machine_for_users_that_are_not_listed() -> None:
    assert Accounts(ask=True).uid(pwd.getpwuid(os.getuid()).pw_name) == os.getuid()
    assert Accounts(ask=True).uid("nobody-here") is None
    assert Accounts(ask=True).gid("nobody-here") is None
