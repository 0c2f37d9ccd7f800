"""`verb_judge` finds faults in machines that lost something, and none in the others."""

from __future__ import annotations

import dataclasses

import pytest

from verb_cases import Case
from verb_judge import Course, Seen, State, left_over
from verb_machine import Entry

FILE = Entry("file", 0o644, (0, 0), "digest", (), 1)
DIRECTORY = Entry("directory", 0o755, (0, 0), "", (), 0)
SUBVOLUME = Entry("subvolume", 0o755, (0, 0), "", (), 0)
OLD, NEW = "2026-03-01T00-00-00Z", "2026-11-29T12-00-00Z"

BEFORE: State = {
    "disk": SUBVOLUME,
    "disk/root": SUBVOLUME,
    "disk/root/etc": DIRECTORY,
    "disk/root/etc/note": FILE,
    "disk/persistent": SUBVOLUME,
    "disk/root-base": SUBVOLUME,
    "disk/root-base/version": FILE,
    "disk/root-base/tool": FILE,
    f"disk/old_roots/{OLD}": SUBVOLUME,
    f"disk/old_roots/{OLD}/file": FILE,
    "disk/old_bases": DIRECTORY,
}
VERSION_2 = dataclasses.replace(FILE, content="another digest", time=2)
DONE = {
    **BEFORE,
    "disk/root-base/version": VERSION_2,
    "disk/root-base/tool": VERSION_2,
    f"disk/old_bases/{NEW}": SUBVOLUME,
    f"disk/old_bases/{NEW}/version": FILE,
    f"disk/old_bases/{NEW}/tool": FILE,
}
MOUNTS = frozenset({"/root / btrfs"})


def seen(state: State, *mounts: str) -> Seen:
    return Seen(state, MOUNTS | {*mounts})


COURSE = Course(
    Case("base run", changes=("disk/root-base*", "disk/old_bases*"), mounts=("/mnt",)),
    seen(BEFORE), seen(DONE, "/old /mnt btrfs"), seen(DONE, "/old /mnt btrfs"),
)  # fmt: skip


def without(state: State, *names: str) -> State:
    return {name: entry for name, entry in state.items() if name not in names}


def test_accepts_the_state_before_and_after() -> None:
    assert COURSE.judge_itself() == []
    assert COURSE.judge_interrupted(seen(BEFORE)) == []
    assert COURSE.judge_interrupted(seen(DONE, "/old /mnt btrfs")) == []
    assert COURSE.judge_completed(COURSE.done, 0) == []


def test_accepts_a_name_that_differs_only_by_its_time() -> None:
    later = {name.replace(NEW, "2026-12-24T18-00-00Z"): entry for name, entry in DONE.items()}
    assert COURSE.judge_interrupted(seen(later)) == []
    assert COURSE.judge_completed(seen(later, "/old /mnt btrfs"), 0) == []


@pytest.mark.parametrize(
    "name", ["disk/root/etc/note", f"disk/old_roots/{OLD}/file", "disk/root-base/version"]
)
def test_reports_missing_files(name: str) -> None:
    assert any(name in line for line in COURSE.judge_interrupted(seen(without(BEFORE, name))))


@pytest.mark.parametrize(
    "change", [{"mode": 0o666}, {"owner": (1000, 0)}, {"attributes": (("user.a", "00"),)},
               {"content": ""}]
)  # fmt: skip
def test_reports_changed_files(change: dict[str, object]) -> None:
    changed = {"disk/root/etc/note": dataclasses.replace(FILE, **change)}  # type: ignore[arg-type]
    (line,) = COURSE.judge_interrupted(seen(BEFORE | changed))
    assert line.startswith("disk/root/etc/note is neither what it was")


def test_reports_a_base_that_is_half_replaced() -> None:
    half = BEFORE | {"disk/root-base/version": VERSION_2}
    assert "the base is neither the previous one nor the new one" in (
        COURSE.judge_interrupted(seen(half))
    )


def test_reports_a_base_that_no_name_leads_to() -> None:
    lost = {k: v for k, v in DONE.items() if not k.startswith("disk/old_bases/")}
    assert "the content of disk/root-base is lost" in COURSE.judge_interrupted(seen(lost))
    aside = lost | {
        "disk/.root-base.ephemeroot.x": SUBVOLUME,
        "disk/.root-base.ephemeroot.x/version": FILE,
        "disk/.root-base.ephemeroot.x/tool": FILE,
    }
    assert COURSE.judge_interrupted(seen(aside)) == []
    completed = COURSE.judge_completed(seen(aside, "/old /mnt btrfs"), 0)
    assert "disk/.root-base.ephemeroot.x" in left_over(completed)


def test_accepts_unfinished_content_in_an_old_base() -> None:
    """The record of the run exists until the next run, which puts its modules back."""
    unfinished = DONE | {f"disk/old_bases/{NEW}/lib/.modules.ephemeroot": DIRECTORY}
    assert COURSE.judge_interrupted(seen(unfinished)) == []
    completed = COURSE.judge_completed(seen(unfinished, "/old /mnt btrfs"), 0)
    assert len(left_over(completed)) == len(completed) == 1


def test_reports_mounts_of_other_processes() -> None:
    (line,) = COURSE.judge_interrupted(seen(BEFORE, "/old /run/x btrfs"))
    assert line == "the mount '/old /run/x btrfs' is left behind"
    (line,) = COURSE.judge_interrupted(Seen(BEFORE, frozenset()))
    assert line == "'/root / btrfs' is gone"


def test_reports_a_second_run_that_does_not_complete() -> None:
    found = COURSE.judge_completed(seen(BEFORE, "/old /mnt btrfs"), 1)
    assert found[0] == "run again, its exit code is 1"
    assert any(line.startswith("disk/root-base/version is not what") for line in found)


def test_reports_what_a_verb_may_not_change() -> None:
    changed = seen(BEFORE | {"disk/root/etc/note": VERSION_2}, "/x /y tmpfs")
    course = dataclasses.replace(COURSE, done=changed, again=changed)
    assert [line.split(" was changed")[0] for line in course.judge_itself()[:2]] == [
        "disk/root/etc/note", "the mount '/x /y tmpfs'",
    ]  # fmt: skip
