"""Every verb where no temporary directory is writable, where TMPDIR leads elsewhere, and where the
next wipe would fail: the verb changes only what it may change.

The verbs are those of the parser, through the table of `verb_cases`. Everything below the top level
of the filesystem is compared by name, content, owner, mode, attributes and times.
"""

from __future__ import annotations

import fnmatch
import itertools
import shutil
from collections.abc import Callable

import btrfsutil
import pytest

import proof
from verb_cases import CASES, Case
from verb_machine import RUNNING, Ended, Image, VerbMachine

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("bindfs"),
    pytest.mark.requires_program("setpriv"),
]


_Place = Callable[[VerbMachine], str]
_Wipe = Callable[[VerbMachine], None]

# Temporary directories. Each function returns the value of TMPDIR.


def _through_a_link(machine: VerbMachine) -> str:
    done = machine.run("sh", "-ec", "mkdir -m 1777 /tmp/real; ln -s real /tmp/link")
    assert done.code == 0, done.err
    return "/tmp/link"


def _tmp_is_a_link(machine: VerbMachine) -> str:
    commands = "umount /tmp; rmdir /tmp; mkdir -p -m 1777 /var/tmp; ln -s var/tmp /tmp"
    done = machine.run("sh", "-ec", commands)
    assert done.code == 0, done.err
    return "/tmp"


def _full(machine: VerbMachine) -> str:
    options = "size=4k,nr_inodes=1,mode=1777"
    done = machine.run("mount", "-t", "tmpfs", "-o", options, "none", "/tmp")
    assert done.code == 0, done.err
    assert machine.run("mkdir", "/tmp/one").code != 0
    return "/tmp"


PLACES: tuple[_Place, ...] = (_through_a_link, _tmp_is_a_link, _full)


# States of the next wipe.


def _would_succeed(machine: VerbMachine) -> None:
    """Nothing is changed."""


def _base_without_init(machine: VerbMachine) -> None:
    base = machine.top / "root-base"
    for path in (base / "usr/sbin/init", base / "sbin/init"):
        if path.exists():
            path.unlink()
    (machine.folder / "usr/upper/sbin/init").unlink()


def _no_base(machine: VerbMachine) -> None:
    if (machine.top / "root-base").exists():
        btrfsutil.delete_subvolume(str(machine.top / "root-base"))
        btrfsutil.sync(str(machine.top))


def _base_of_another_kernel(machine: VerbMachine) -> None:
    modules = machine.top / "root-base/lib/modules"
    if modules.exists():
        (modules / RUNNING).rename(modules / "1.2.3-other")


WIPES: tuple[_Wipe, ...] = (_would_succeed, _base_without_init, _no_base, _base_of_another_kernel)

SURROUNDINGS = [*itertools.product(PLACES, WIPES)]

IGNORED = ("run", "run/mounts", "run/*lock")
"""Directories and files in the machine's memory whose content does not matter."""


def _run(
    image: Image,
    case: Case,
    place: _Place,
    wipe: _Wipe,
    *commands: str,
) -> tuple[Ended, list[str]]:
    """How the verb ended, and what it changed without permission."""
    name = case.id if case.prepare else ""
    with image.machine(name, case.prepare, booted=case.booted) as machine:
        for command in commands:
            assert machine.run("sh", "-ec", command).code == 0
        wipe(machine)
        environment = {"TMPDIR": place(machine)}
        before, mounts = machine.state(), machine.mounts()
        done = machine.ephemeroot(
            *case.argv, user=case.user, daemons=case.daemons, environment=environment
        )
        after = machine.state()
        names = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]
        allowed = (*case.changes, *IGNORED)
        found = [n for n in names if not any(fnmatch.fnmatchcase(n, p) for p in allowed)]
        found += [
            line
            for line in sorted(set(machine.mounts()) ^ set(mounts))
            if line.split()[1] not in case.mounts
        ]
        assert "Traceback" not in done.err, done.err
        return done, found


def _chosen(case: Case) -> list[tuple[_Place, _Wipe]]:
    """All pairs in `make proof`; otherwise each surrounding with a few verbs."""
    if proof.is_whole():
        return SURROUNDINGS
    return [SURROUNDINGS[CASES.index(case) * 5 % len(SURROUNDINGS)]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_changes_nothing_else_in_any_surrounding(verb_image: Image, case: Case) -> None:
    for place, wipe in _chosen(case):
        done, found = _run(verb_image, case, place, wipe)
        assert found == [], (place.__name__, wipe.__name__, done)
        if wipe is _would_succeed and place is not _full:
            assert done.code == case.code, (place.__name__, done)


def test_every_pair_is_tested_with_a_verb() -> None:
    assert {pair for case in CASES for pair in _chosen(case)} == set(SURROUNDINGS)


REHEARSE = next(case for case in CASES if case.verb == "rehearse")
FINISH = next(case for case in CASES if case.id == "leave-finish")


@pytest.mark.parametrize("wipe", WIPES[1:])
@pytest.mark.parametrize("place", PLACES)
def test_a_failed_rehearsal_changes_nothing(
    verb_image: Image,
    place: _Place,
    wipe: _Wipe,
) -> None:
    done, found = _run(verb_image, REHEARSE, place, wipe)
    assert (done.code, found) == (1, [])
    assert "would fail" in done.out


@pytest.mark.parametrize("place", PLACES)
def test_leave_finish_mounts_the_store_itself_and_changes_nothing_else(
    verb_image: Image, place: _Place
) -> None:
    """In the first boot after `leave`, where nothing else mounts the store."""
    done, found = _run(verb_image, FINISH, place, _would_succeed, "umount -R /persistent")
    assert (done.code, found) == (0, []), done
    assert "last-minute" not in done.err


# /run, which every verb that mounts needs.


@pytest.mark.parametrize("verb", ["roots list", "rehearse", "base list", "diff"])
def test_reports_run_without_free_inodes(verb_image: Image, verb: str) -> None:
    with verb_image.machine() as machine:
        shutil.rmtree(machine.folder / "run/ephemeroot.mounts", ignore_errors=True)
        full = "mount -t tmpfs -o size=4k,nr_inodes=1 none /run"
        assert machine.run("sh", "-ec", full).code == 0
        before, mounts = machine.state(), machine.mounts()
        done = machine.ephemeroot(*verb.split())
        assert done.code == 1, done
        assert "cannot mount at /run/ephemeroot.mounts: No space left on device" in done.err
        assert "df -i /run" in done.err
        assert (machine.state(), machine.mounts()) == (before, mounts)
