"""Old roots: their retention, and the verbs that read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import programs
from ephemeroot.wipers import changes, names
from ephemeroot.wipers.zfs import Zfs, datasets
from zfs_pools.pool import (
    BASE,
    DAY,
    MIB,
    NOW,
    OLD,
    ROOT,
    TOP,
    complaint,
    content,
    create,
    destroy,
    exists,
    history,
    live,
    mounted,
    names_of,
    only_in_proof,
    run,
    snapshot,
    start,
    unsynchronised,
    value,
    wipe,
    write,
)


def case_root_that_cannot_be_seeded_is_kept() -> None:
    """The old root that has the path is marked; after a rollback there is no old root to mark."""
    assert Zfs({"mode": "rotate"}).marks_kept
    assert not Zfs({"mode": "rollback"}).marks_kept
    start()
    first = wipe("rotate").retired
    live()
    write(ROOT, "large", "x")
    outcome = wipe("rotate", now=NOW + 60, keep=True)
    assert outcome.retired == "2027-01-15T08-01-00Z.keep"
    assert content(f"{OLD}/{outcome.retired}") == {"release": "base", "large": "x"}
    live()
    complete = wipe("rotate", now=NOW + 120).retired
    assert complete == "2027-01-15T08-02-00Z"
    # No boot of the retired root was complete: the previous one is the source, and is the one to
    # keep.
    outcome = wipe("rotate", now=NOW + 180, keep=True)
    assert outcome.retired == "2027-01-15T08-03-00Z.unused"
    assert outcome.kept == [
        first, "2027-01-15T08-01-00Z.keep", f"{complete}.keep", "2027-01-15T08-03-00Z.unused",
    ]  # fmt: skip
    # A mark for another reason does not make a root the first one.
    found = datasets.look(OLD)[OLD]
    assert found.own["ephemeroot:first"] == first


def case_old_roots_are_pruned_by_age_and_kept_when_used() -> None:
    start()
    keep: dict[str, Any] = {"keep-days": 1, "keep-last": 2}
    for day in range(6):
        outcome = wipe("rotate", now=NOW + day * DAY, **keep)
        assert outcome.problems == []
        live()
    texts = [name[len(OLD) + 1 :] for name in names_of("filesystem", OLD)]
    assert len(texts) == 3, texts
    first = "2027-01-15T08-00-00Z.keep"
    assert texts == [first, "2027-01-19T08-00-00Z", "2027-01-20T08-00-00Z"]
    # Old roots with content in them, in use, or of another owner stay, and the boot reports them.
    create(f"{OLD}/foreign", "none")
    snapshot(f"{OLD}/{texts[1]}@mine")
    with mounted(f"{OLD}/{texts[2]}"):
        outcome = wipe("rotate", now=NOW + 20 * DAY, **keep)
        live()
        outcome = wipe("rotate", now=NOW + 21 * DAY, **keep)
    assert len(outcome.problems) == 2, outcome.problems
    assert any(f"{texts[1]}@mine" in line for line in outcome.problems)
    assert any("is mounted" in line for line in outcome.problems)
    live()
    destroy(f"{OLD}/{texts[1]}@mine")
    # In the same second: another one is not a day older than allowed.
    outcome = wipe("rotate", now=NOW + 21 * DAY, **keep)
    assert outcome.problems == []
    assert outcome.pruned == texts[1:], outcome.pruned
    assert exists(f"{OLD}/foreign")
    assert exists(f"{OLD}/{first}")
    assert value(OLD, "ephemeroot:seen") == str(NOW + 21 * DAY)
    # A clock that is years ahead deletes nothing.
    here = names_of("filesystem", OLD)
    outcome = unsynchronised(NOW + 4000 * DAY)
    assert outcome.retired is not None
    assert ".unsynced" in outcome.retired
    assert set(here) <= set(names_of("filesystem", OLD))
    with history() as opened:
        entry = next(e for e in opened.entries() if e.name == names.Name(NOW, keep=True))
        assert opened.facts(entry).size
        assert [e.kind for e in opened.entries()].count("foreign") == 1
        # Kept and released by the administrator: one rename each, of a root that was listed and
        # still exists.
        for wanted in (False, True):
            change = changes.keep(opened, first, wanted=wanted)
            assert change is not None
            change.execute()
            assert exists(f"{OLD}/{names.Name(NOW, keep=wanted)}")
        change = changes.keep(opened, first, wanted=False)
        assert change is not None
        run("zfs", "rename", f"{OLD}/{first}", f"{OLD}/elsewhere")
        create(f"{OLD}/{first}", "none")
        said = complaint(EphemerootError, change.execute)
        assert "is another dataset than before" in said, said
        available, total = opened.space()
        assert 0 < available < total


@only_in_proof
def case_sizes_of_old_roots_are_listed_by_one_process() -> None:
    start()
    for number in range(3):
        write(ROOT, "own", os.urandom(MIB).hex())
        wipe("rotate", now=NOW + number * DAY)
        live()
    with history() as opened:
        entries = opened.retired()
        exact = [opened.facts(entry).exclusive for entry in entries]
        started: list[str] = []

        def count(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code is programs.run.__code__:
                started.append(frame.f_code.co_name)

        sys.setprofile(count)
        try:
            found = [opened.measure(entry, time.monotonic() + 60) for entry in entries]
        finally:
            sys.setprofile(None)
    assert found == exact
    assert all(size is not None and size > MIB for size in found), found
    assert len(started) == 1, started


def case_requested_old_root_is_cloned_and_booted() -> None:
    start()
    destroy(f"{ROOT}@blank")  # an old root with a snapshot of another owner's stays
    write(ROOT, "wanted", "x")
    first = wipe("rotate").retired
    live()
    outcome = wipe("rotate", now=NOW + 60, request=first)
    assert content(ROOT) == {"release": "base", "wanted": "x"}
    assert value(ROOT, "origin").startswith(f"{OLD}/{first}@ephemeroot-")
    live()
    # The old root stays while there is a clone of it, and then it can be deleted, with its
    # snapshot.
    with history() as opened:
        entry = opened.find(str(first))
        said = complaint(EphemerootError, lambda: opened.delete(entry))
        assert f"{ROOT} is a clone of" in said, said
    outcome = wipe("rotate", now=NOW + 120)
    live()
    with history() as opened:
        opened.delete(opened.find(str(outcome.retired)))
        opened.delete(opened.find(str(first)))
    assert not exists(f"{OLD}/{first}")


@only_in_proof
def case_roots_and_diff_read_and_restore_from_old_roots() -> None:
    """`ephemeroot roots` and `diff`, with a root on ZFS at another mount point."""
    start()
    destroy(f"{ROOT}@blank")  # an old root with a snapshot of another owner's stays
    run("zfs", "set", "snapdir=visible", TOP)
    lost = os.urandom(5000)
    with mounted(ROOT) as top:
        (top / "var").mkdir()
        (top / "var/lost").write_bytes(lost)
        os.chown(top / "var/lost", 7, 8)
    first = str(wipe("rotate").retired)
    live()
    with mounted(ROOT) as top:
        (top / "etc/ephemeroot").mkdir(parents=True)
        (top / "etc/kernel").mkdir()
        (top / "var").mkdir()
        (top / "etc/kernel/cmdline").write_text(f"root=zfs:{ROOT.replace(' ', '+')} ro\n")
        settings: dict[str, object] = {"mode": "rotate", "base": BASE}
        attribute = "ephemeroot.wipers.zfs:Zfs"
        made = Wipe(target="/", wiper="zfs", attribute=attribute, settings=settings)
        (top / "etc/ephemeroot/plan.json").write_bytes(Plan(wipe=[made], persist=[]).dump())
        (top / "release").write_text("changed")

        def call(*words: str) -> Any:
            return json.loads(run("ephemeroot", "--root", str(top), *words, "--json"))

        (listed,) = call("roots", "list")["histories"]
        assert listed["old-roots"] == OLD, listed
        assert [entry["name"] for entry in listed["entries"]] == [first], listed
        shown = call("roots", "show", first)
        assert shown["size"] >= shown["exclusive"] > 5000, shown
        assert differences(call("roots", "diff", first)).items() >= {
            ("/var/lost", "deleted"), ("/release", "changed"),
        }  # fmt: skip
        against_fresh = differences(call("diff"))
        assert against_fresh["/release"] == "changed", against_fresh
        assert "/var/lost" not in against_fresh, "the fresh one never had it"
        assert differences(call("diff", "--against", "base")) == against_fresh
        run("ephemeroot", "--root", str(top), "roots", "unkeep", first)
        first = first.removesuffix(".keep")
        assert exists(f"{OLD}/{first}")
        with tempfile.TemporaryDirectory() as place:
            run("ephemeroot", "--root", str(top), "roots", "mount", first, place)
            try:
                assert Path(place, "var/lost").stat().st_uid == 7
                said = subprocess.run(
                    ["ephemeroot", "--root", str(top), "roots", "delete", first, "--yes"],
                    capture_output=True,
                    text=True,
                )
                assert said.returncode == 1, said
                assert "is mounted" in said.stderr, said
            finally:
                datasets.unmount(place)
        run("ephemeroot", "--root", str(top), "roots", "restore", "/var/lost", "--from", first)
        assert (top / "var/lost").read_bytes() == lost
        assert (top / "var/lost").stat().st_gid == 8
        run("ephemeroot", "--root", str(top), "roots", "delete", first, "--yes")
    assert names_of("filesystem", OLD) == []


def differences(said: Any) -> dict[str, str]:
    found = {one["path"]: one["change"] for one in said["differences"]}
    assert not any(path.startswith("/.zfs") for path in found), "the snapshots of snapdir=visible"
    return found
