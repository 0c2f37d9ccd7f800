"""Which mounts each verb makes: read-only where it only reads, and never where its caller can see
them.

The verbs are those of the parser, through the table of `verb_cases`. The mounts are taken from a
trace of the system calls, so that one that exists for only an instant is found, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import mount_trace
import proof
from ephemeroot import cli
from ephemeroot.cli import access
from mount_trace import OWN, Made
from verb_cases import CASES, Case
from verb_machine import HOME, PROGRAM, Image, VerbMachine
from verb_parsers import COMMANDS

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("strace")]

TRACE = "/run/trace"


def writes(case: Case) -> bool:
    parser = COMMANDS[case.verb][1]
    return bool(parser.get_default("writes") != access.NOTHING)


def has_dry_run(case: Case) -> bool:
    return "--dry-run" in COMMANDS[case.verb][1]._option_string_actions


def traced(image: Image, case: Case, *more: str) -> list[Made]:
    """The mounts that the case makes when it is called with *more* options."""
    name = case.id if case.prepare else ""
    with image.machine(name, case.prepare, booted=case.booted) as machine:
        verb = case.verb.split()
        argv = (*verb, *more, *case.argv[len(verb) :])
        before = machine.mounts()
        # A user's programs are traced as that user, without the programs that they start: bindfs
        # and fusermount mount for the user with privileges that a traced process loses.
        who = ("-u", "talyz") if case.user else ("-f", "--seccomp-bpf")
        done = machine.run(
            *mount_trace.STRACE, *who, "-o", TRACE, PROGRAM, *argv, daemons=case.daemons,
            environment={"HOME": HOME} if case.user else None,
        )  # fmt: skip
        assert done.code == case.code, f"{argv}: {done.out}{done.err}"
        if more:
            assert machine.mounts() == before
        return mount_trace.read(machine.inside(TRACE).read_text())


@pytest.mark.parametrize("early", [0, 1, 2, 3])
def test_the_trace_assigns_early_calls_of_a_child_to_its_namespace(
    early: int,
) -> None:
    """A quick child makes many calls before the line of the trace that reports its creation."""
    child = [
        '2 fsopen("btrfs", 0) = 3',
        "2 fsmount(3, 0, MOUNT_ATTR_RDONLY) = 4",
        '2 move_mount(4, "", 5, "", 0) = 0',
    ]
    lines = [
        "1 unshare(CLONE_NEWNS) = 0",
        '1 mount("none", "/", NULL, MS_REC|MS_PRIVATE, NULL) = 0',
        "1 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        *child[:early],
        "1 <... clone resumed>) = 2",
        *child[early:],
    ]
    assert mount_trace.read("\n".join(lines)) == [Made("btrfs", read_only=True, private=True)]


READING = [case for case in CASES if not writes(case)]
WRITING = [case for case in CASES if writes(case)]
REHEARSED = [case for case in WRITING if has_dry_run(case)]


@pytest.mark.parametrize("case", proof.sample(READING, 12), ids=lambda case: case.id)
def test_read_only_verbs_mount_read_only(verb_image: Image, case: Case) -> None:
    made = traced(verb_image, case)
    assert [one for one in made if not one.read_only and one.what != OWN] == []
    if not case.mounts:
        assert [one for one in made if one.private is False] == []
    assert any(one.what == "btrfs" for one in made) == (case.id in OPEN_A_HISTORY)


@pytest.mark.parametrize("case", proof.sample(REHEARSED, 8), ids=lambda case: case.id)
def test_a_dry_run_mounts_read_only(verb_image: Image, case: Case) -> None:
    made = traced(verb_image, case, "--dry-run")
    assert [one for one in made if not one.read_only and one.what != OWN] == []
    assert [one for one in made if one.private is False] == []


@pytest.mark.parametrize("case", proof.sample(WRITING, 12), ids=lambda case: case.id)
def test_verbs_that_write_mount_out_of_sight_of_their_caller(verb_image: Image, case: Case) -> None:
    made = traced(verb_image, case)
    if not case.mounts:
        assert [one for one in made if one.private is False] == []
    assert any(one.what == "btrfs" for one in made) == (case.id in OPEN_A_HISTORY)
    rw = any(one.what == "btrfs" and not one.read_only for one in made)
    assert rw == (case.id in CHANGE_A_HISTORY)


# Keep the tests above from passing without a case: these verbs mount the top level of a filesystem,
# and these must write to it.
CHANGE_A_HISTORY = {
    "rehearse", "roots-prune", "roots-delete", "roots-keep", "roots-unkeep", "roots-claim",
    "base-create",
    "base-run", "base-commit", "base-rollback", "upgrade", "install", "remove", "apply",
    "boot-complete", "leave",
}  # fmt: skip
OPEN_A_HISTORY = CHANGE_A_HISTORY | {
    "diff", "diff-against", "roots-list", "roots-show", "roots-diff", "roots-mount",
    "roots-restore", "base-list", "base-diff", "next-boot-root", "check", "status", "plan", "adopt",
    "package-change", "unsaved",
    "edit", "where", "where-forgotten",
}  # fmt: skip


def test_the_sets_name_existing_cases() -> None:
    assert {case.id for case in CASES} >= OPEN_A_HISTORY
    assert set(cli.VERBS) >= {case.verb.split()[0] for case in CASES}


# The parser of traces.


def test_parses_a_trace_with_every_kind_of_line() -> None:
    made = mount_trace.read(
        "unshare(CLONE_NEWNS) = 0\n"
        'mount("none", "/", NULL, MS_REC|MS_SLAVE, NULL) = 0\n'
        'fsopen("tmpfs", FSOPEN_CLOEXEC) = 5\n'
        "fsmount(5, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID) = 6\n"
        'move_mount(6, "", 7, "", MOVE_MOUNT_F_EMPTY_PATH) = 0\n'
        "close(6) = 0\n"
        'open_tree(4, "", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC) = 6\n'
        'mount_setattr(6, "", AT_EMPTY_PATH, {attr_set=MOUNT_ATTR_RDONLY, attr_clr=0}, 32) = 0\n'
        'open_tree(4, "", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC) = 8\n'
        "setns(3, CLONE_NEWNS) = 0\n"
        'move_mount(8, "", 7, "", MOVE_MOUNT_F_EMPTY_PATH) = 0\n'
        'open_tree(4, "", OPEN_TREE_CLONE) = -1 EINVAL (Invalid argument)\n'
    )
    assert made == [
        Made("tmpfs", read_only=False, private=True),
        Made("clone", read_only=True),
        Made("clone", read_only=False, private=False),
    ]


def test_the_trace_of_a_machine_shows_a_writable_mount(verb_image: Image) -> None:
    with verb_image.machine() as machine:
        assert _mounted(machine) == [("bind", False)]


def _mounted(machine: VerbMachine) -> list[tuple[str, bool]]:
    done = machine.run(*mount_trace.STRACE, "-o", TRACE, "mount", "--bind", "/srv", "/mnt")
    assert done.code == 0, done.err
    made = mount_trace.read(Path(machine.inside(TRACE)).read_text())
    return [("bind", one.read_only) for one in made]
