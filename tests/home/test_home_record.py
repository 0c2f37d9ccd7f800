"""The record of the mounts and links in a home: damaged, forged, lost, and left by a killed run."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

import ordinary_user
import proof
from ephemeroot.home import view
from ephemeroot.home.record import FORMAT, VERSION
from ordinary_user import HOME, NOTHING, PLAIN, PROGRAM, STORE, OrdinaryUser, one

pytestmark = ordinary_user.NEEDS

RECORD = ".local/state/ephemeroot/home.json"


@pytest.mark.parametrize(
    ("directory", "method"),
    proof.sample(
        [
            (directory, method)
            for directory in (".local", ".local/state", ".local/state/ephemeroot")
            for method in ("bindfs", "symlink")
        ],
        2,
    ),
)
def test_the_record_may_be_in_a_persistent_path(
    user: OrdinaryUser, directory: str, method: str
) -> None:
    user.declare(PLAIN.replace('".local/share/Steam"', '"Steam"'))
    user.home("apply")
    text = PLAIN.replace('".local/share/Steam"', '"Steam"').replace(
        "directories = [", f'directories = [{{ directory = "{directory}", method = "{method}" }}, '
    )
    expected = {
        directory: "mounted" if method == "bindfs" else "linked",
        "Downloads": "mounted", "Steam": "linked", ".screenrc": "linked",
    }  # fmt: skip
    user.declare(text)
    user.home("apply")
    assert user.status() == expected
    assert user.home("apply").stdout == "4 entries: all in place\n"
    assert user.sh(f"cat {RECORD}").stdout == user.sh(f"cat {STORE}/{RECORD}").stdout
    user.home("stop")
    assert user.mounts() == {}
    user.home("apply")
    assert user.status() == expected
    user.sh(f"rm -f .screenrc Steam; fusermount3 -u {directory} || rm {directory}")  # a new boot
    user.sh("fusermount3 -u Downloads; rmdir Downloads; rm -rf .local")
    user.home("apply")
    assert user.status() == expected
    user.declare(PLAIN.replace('".local/share/Steam"', '"Steam"'))
    user.home("apply")
    assert set(user.status().values()) == {"mounted", "linked"}
    assert f"{RECORD} " not in user.tree(STORE)
    user.declare(NOTHING)
    user.home("apply")
    assert (user.tree(), user.mounts()) == ([], {})


def test_a_forged_record_removes_nothing(user: OrdinaryUser) -> None:
    user.sh("mkdir mine empty foreign; echo x > file; ln -s file link")
    user.sh("bindfs -o no-allow-other mine foreign; mkdir /mnt/persistent/home/talyz/outside")
    inode = int(user.sh(f"stat -c %i {STORE}/outside").stdout)
    mount = {"boot": "another", "device": "0:1", "fsname": "x", "source": f"{STORE}/x"}
    forged = {
        "format": "ephemeroot-home-record",
        "version": 1,
        "mounts": [{"target": f"{HOME}/foreign", **mount}, {"target": "/", **mount}, 7],
        "links": [
            {"target": f"{HOME}/link", "source": f"{STORE}/link"},
            {"target": f"{HOME}/file", "source": "x"},
            {"target": f"{HOME}/../../mnt/fuse", "source": ""},
        ],
        "directories": [
            {"path": f"{HOME}/empty", "inode": 1},
            {"path": f"{STORE}/outside", "inode": inode},
            {"path": f"{HOME}/empty", "inode": "1"},
            {"path": HOME, "inode": 2},
        ],
    }
    user.write(RECORD, json.dumps(forged))
    user.declare(NOTHING)
    before = [path for path in user.tree() if not path.startswith(".local")]
    user.home("apply")
    user.home("stop", "--all")
    assert [path for path in user.tree() if not path.startswith(".local")] == before
    assert user.sh(f"test -d {STORE}/outside && echo yes").stdout == "yes\n"
    assert set(user.mounts()) == {"foreign"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "ephemeroot-home-record"}'])
def test_replaces_a_damaged_record(user: OrdinaryUser, content: str) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.write(RECORD, content)
    done = user.home("apply")
    assert f"{HOME}/{RECORD} is " in done.stderr
    assert user.home("apply").stderr == ""
    user.declare(NOTHING)
    user.home("apply")
    assert user.mounts() == {}
    assert [path for path in user.tree() if not path.startswith(".local")] == ["Downloads"]


def test_a_lost_record_does_not_matter_for_declared_paths(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.sh("rm -r .local/state")
    assert "all in place" in user.home("apply").stdout
    user.sh("rm -r .local/state")
    user.home("stop", "--all")
    assert user.mounts() == {}
    assert ".screenrc" not in " ".join(user.tree())


def test_reports_and_keeps_a_file_that_replaced_a_link(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.sh("echo precious > new; mv new .screenrc")
    done = user.home("apply", rc=10)
    assert "a program has replaced the link by a file" in done.stderr
    user.declare(NOTHING)
    user.home("apply")
    assert user.sh("cat .screenrc").stdout == "precious\n"


def test_the_next_run_completes_a_killed_one(user: OrdinaryUser) -> None:
    names = ", ".join(f'"d{n}/inner"' for n in range(8))
    user.declare(one(names, 'files = ["f1", "f2"]'))
    for delay in proof.sample((0.1, 0.2, 0.25, 0.3, 0.35, 0.4), 3):
        words = user.command([PROGRAM, "home", "apply"], {})
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            running.wait(delay)
        except subprocess.TimeoutExpired:
            # Any of these processes may end by itself before the signal.
            for pid in user.processes(PROGRAM):
                user.sh(f"kill -{signal.SIGKILL} {pid} || :")
            running.wait(10)
        user.home("apply")
        assert set(user.status().values()) == {"mounted", "linked"}
        user.home("stop", "--all")
        assert (user.tree(), user.mounts()) == ([], {})


@pytest.mark.parametrize("then", [("stop", "--all"), ("apply",)], ids=" ".join)
def test_removes_a_link_that_an_interrupted_run_has_renamed(
    user: OrdinaryUser, then: tuple[str, ...]
) -> None:
    """The signal arrives after the first rename of `stop`."""
    user.declare(PLAIN)
    user.home("apply")
    before = user.tree()
    directory = f"{HOME}/.local/share"
    place = view.aside(f"{directory}/Steam")
    user.sh(f"mv -T {directory}/Steam {place}")
    user.home(*then)
    assert user.sh(f"test -L {place}", check=False).returncode != 0
    assert user.tree() == (before if then == ("apply",) else [])


@pytest.mark.parametrize("state", ["made", "not made", "used"])
def test_a_directory_is_recorded_before_it_is_made(user: OrdinaryUser, state: str) -> None:
    """A run may be killed before or after mkdir(2)."""
    user.declare(NOTHING)
    record = {
        "format": FORMAT, "version": VERSION, "mounts": [], "links": [],
        "directories": [{"path": f"{HOME}/games", "inode": 0}],
    }  # fmt: skip
    user.write(RECORD, json.dumps(record))
    if state != "not made":
        user.sh("mkdir games")
    if state == "used":
        user.sh("touch games/score")
    user.home("apply")
    expected = {"made": "", "not made": "", "used": "games/score\n"}
    assert (
        user.sh("ls -d games games/* 2>/dev/null || :").stdout.removeprefix("games\n")
        == (expected[state])
    )
    assert not user.outside(f"{HOME}/{RECORD}").exists()
