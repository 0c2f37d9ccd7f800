"""What the ZFS wiper does with real pools; run by python3 inside a machine, see test_zfs.py.

Prints a line for each case, with a traceback if it fails, and at the end how many passed. The cases
of zfs_faults.py belong to it. With arguments: only the cases of these names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import zfs_faults
import zfs_recipes
import zfs_states
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers import changes, names
from ephemeroot.wipers.pruning import Pruning
from ephemeroot.wipers.zfs import Zfs, datasets
from zfs_pool import (
    BASE,
    DAY,
    IMAGE,
    NEW,
    NOW,
    OLD,
    POOL,
    ROOT,
    TOP,
    WHOLE,
    Told,
    bootfs,
    clone,
    complaint,
    content,
    create,
    cut_at,
    destroy,
    exists,
    history,
    live,
    mounted,
    names_of,
    refused,
    run,
    snapshot,
    start,
    state,
    unsynchronised,
    value,
    wipe,
    write,
)

# Rollback


def case_rollback() -> None:
    start()
    write(ROOT, "lost", "x")
    snapshot(f"{ROOT}@later")
    write(ROOT, "lost-too", "x")
    run("zfs", "set", "ephemeroot:state=lived", ROOT)
    told = Told()
    outcome = wipe("rollback", told=told)
    assert told.proven == [["release"]]
    assert told.previous == [(["lost", "lost-too", "release"], True)]
    assert told.lines[0] == f"destroy the snapshot {ROOT}@later", told.lines
    assert content(ROOT) == {"release": "base"}
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]
    wiper = Zfs({})
    with mounted(ROOT) as top:
        assert wiper.is_fresh(str(top), outcome.fresh)
        assert not wiper.is_fresh("/", outcome.fresh)
    with mounted(BASE) as top:
        assert not wiper.is_fresh(str(top), outcome.fresh)
    # It never lived: nothing of it is worth carrying over.
    told = Told()
    wipe("rollback", told=told)
    assert told.previous == [(["release"], False)]
    live()
    told = Told()
    wipe("rollback", told=told)
    assert told.previous == [(["release"], True)]
    with mounted(BASE) as top:
        assert not wiper.mark_lived(str(top)), "no wipe has made it"


def case_rollback_is_forbidden() -> None:
    start()
    write(ROOT, "lost", "x")
    run("zfs", "set", "ephemeroot:state=lived", ROOT)
    # One that could go is not gone when another cannot.
    snapshot(f"{ROOT}@first", f"{ROOT}@held", f"{ROOT}@last")
    run("zfs", "hold", "mine", f"{ROOT}@held")
    refused("rollback", f"{ROOT}@held is held (mine)", "zfs release")
    run("zfs", "release", "mine", f"{ROOT}@held")
    clone(f"{ROOT}@last", f"{TOP}/copy", "none")
    refused("rollback", f"{ROOT}@last has the clone {TOP}/copy", "zfs destroy")
    destroy(f"{TOP}/copy")
    run("zfs", "bookmark", f"{ROOT}@first", f"{ROOT}#mark")
    refused("rollback", f"{ROOT}#mark is a bookmark", "zfs destroy")
    run("zfs", "destroy", f"{ROOT}#mark")
    with mounted(f"{ROOT}@last"):
        refused("rollback", f"{ROOT}@last", "mounted")
    with mounted(ROOT):
        refused("rollback", "is mounted", "initramfs")
    refused("rollback", "could not boot", fail="prove")
    refused("rollback", "store is full", fail="previous")
    refused("rollback", "no old root", request="2026-11-23T02-15-00Z")
    run("zfs", "bookmark", f"{ROOT}@blank", f"{ROOT}#older")
    before = state()
    told = Told()
    wipe("rollback", dry_run=True, told=told)
    assert state() == before
    assert len(told.lines) == 4, told.lines
    wipe("rollback")
    assert content(ROOT) == {"release": "base"}
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]
    assert names_of("bookmark", ROOT) == [f"{ROOT}#older"]


def case_rollback_without_space() -> None:
    start()
    with mounted(ROOT) as top:
        (top / "large").write_bytes(os.urandom(4 << 20))
    snapshot(f"{ROOT}@large")
    run("zfs", "rollback", "-r", f"{ROOT}@blank")
    with mounted(ROOT) as top:
        (top / "large").write_bytes(os.urandom(4 << 20))
    snapshot(f"{ROOT}@large", f"{ROOT}@later")
    with mounted(ROOT) as top:
        (top / "large").unlink()
    run("zfs", "set", "refquota=2M", "ephemeroot:state=lived", ROOT)
    refused("rollback", "larger than the dataset's refquota", snapshot="large")
    run("zfs", "set", "refquota=none", ROOT)
    wipe("rollback", snapshot="large")
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank", f"{ROOT}@large"]


def case_what_is_missing() -> None:
    start()
    refused(
        "rollback", f"{ROOT}@none does not exist", f'zfs snapshot "{ROOT}@none"', snapshot="none"
    )
    missing = f"{TOP}/none"
    refused("rollback", f"{missing} does not exist", "zfs list", root=missing)
    refused("rollback", "pool nowhere is not imported", "zpool import -N nowhere", root="nowhere/x")
    run("zfs", "create", "-V", "8M", f"{TOP}/volume")
    refused("rollback", "is a volume", root=f"{TOP}/volume")
    # The pool's bootfs is what is booted, so it has to be the one.
    refused("rollback", "bootfs", f"zpool set bootfs={ROOT}", line="zfs:AUTO")
    run("zpool", "set", f"bootfs={ROOT}", POOL)
    wipe("rollback", line="zfs:AUTO")


# Rotation


def case_rotation() -> None:
    start(mountpoint="/cases")
    run("zfs", "set", "compression=gzip-3", "atime=off", "quota=200M", "my:own=a b", ROOT)
    run("zfs", "set", "refreservation=4M", ROOT)
    run("zpool", "set", f"bootfs={ROOT}", POOL)
    write(ROOT, "forgotten", "x")
    guid = value(ROOT, "guid")
    told = Told()
    outcome = wipe("rotate", told=told)
    first = "2027-01-15T08-00-00Z.keep"
    assert outcome.retired == first
    assert outcome.problems == []
    assert outcome.kept == [first]
    assert told.proven == [["release"]]
    assert told.previous == [(["forgotten", "release"], True)]
    assert content(ROOT) == {"release": "base"}
    assert content(f"{OLD}/{first}") == {"release": "base", "forgotten": "x"}
    assert value(f"{OLD}/{first}", "guid") == guid
    assert value(ROOT, "origin") == f"{BASE}@blank"
    assert not exists(NEW)
    got = [value(ROOT, key) for key in ("compression", "atime", "quota", "my:own", "canmount")]
    assert got == ["gzip-3", "off", str(200 << 20), "a b", "noauto"]
    assert value(ROOT, "mountpoint") == "/cases"
    assert value(ROOT, "refreservation") == str(4 << 20)
    assert value(f"{OLD}/{first}", "refreservation") == "0"
    assert bootfs() == ROOT
    with mounted(ROOT) as top:
        assert Zfs({}).is_fresh(str(top), outcome.fresh)
    # It never lived: it is no history, and the one before is what is shown.
    told = Told()
    outcome = wipe("rotate", told=told, now=NOW + 60)
    assert outcome.retired == "2027-01-15T08-01-00Z.unused"
    assert told.previous == [(["forgotten", "release"], True)]
    live()
    write(ROOT, "lived", "x")
    told = Told()
    outcome = wipe("rotate", told=told, now=NOW + 120)
    assert outcome.retired == "2027-01-15T08-02-00Z"
    assert told.previous == [(["lived", "release"], True)]
    assert content(f"{OLD}/{outcome.retired}") == {"release": "base", "lived": "x"}
    # Twice in one second.
    live()
    assert wipe("rotate", now=NOW + 120).retired == "2027-01-15T08-02-00Z.2"
    before = state()
    told = Told()
    wipe("rotate", now=NOW + 180, dry_run=True, told=told)
    assert state() == before
    assert told.proven == [["release"]]
    assert told.lines[-1].startswith("put the fresh one in the place of"), told.lines


def case_what_cannot_be_seeded() -> None:
    """The old root that has it is marked; a rollback has none that could be."""
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
    lived = wipe("rotate", now=NOW + 120).retired
    assert lived == "2027-01-15T08-02-00Z"
    # The root that is retired never lived: the one before it is shown, and is the one to keep.
    outcome = wipe("rotate", now=NOW + 180, keep=True)
    assert outcome.retired == "2027-01-15T08-03-00Z.unused"
    assert outcome.kept == [
        first, "2027-01-15T08-01-00Z.keep", f"{lived}.keep", "2027-01-15T08-03-00Z.unused",
    ]  # fmt: skip
    # A mark for another reason makes no root the first one.
    found = datasets.look(OLD)[OLD]
    assert found.own["ephemeroot:first"] == first


def case_rotation_is_forbidden() -> None:
    start()
    create(f"{ROOT}/inside", "none")
    refused("rotate", f"{ROOT}/inside", "zfs rename")
    destroy(f"{ROOT}/inside")
    run("zfs", "set", "mountpoint=/cases", ROOT)
    run("zfs", "set", "-u", "canmount=on", ROOT)
    refused("rotate", "canmount=on", f'zfs set canmount=noauto "{ROOT}"')
    run("zfs", "set", "canmount=noauto", ROOT)
    refused("rotate", f"the base {TOP}/none does not exist", base=f"{TOP}/none")
    refused("rotate", "lies in the root", base=f"{ROOT}/base")
    refused("rotate", "lies in old-roots", base=f"{OLD}/base")
    refused("rotate", "different pools", base="other/base")
    refused("rotate", "is a pool", root=POOL, base=f"{POOL}/base", **{"old-roots": f"{POOL}/old"})
    refused("rotate", f"no dataset {TOP}/x", "zfs create", **{"old-roots": f"{TOP}/x/old"})
    refused("rotate", f"zfs snapshot {BASE}@none", snapshot="none")
    refused("rotate", "could not boot", fail="prove", **{"old-roots": TOP + "/old-roots"})
    clone(f"{BASE}@blank", NEW, "none")
    refused("rotate", f"{NEW} exists and was not made", "zfs rename")
    destroy(NEW)
    with mounted(ROOT):
        refused("rotate", "is mounted")
    refused("rotate", "cannot boot the old root", request="2026-11-23T02-15-00Z")
    destroy(f"{ROOT}@blank")  # or the two would collide
    run("zfs", "promote", ROOT)
    refused("rotate", f"is a clone of {ROOT}@blank", f"zfs promote {BASE}")
    run("zfs", "promote", BASE)
    wipe("rotate")


def case_encryption() -> None:
    at = f"{POOL}/locked"
    start(at=at)
    root = f"{at}/the root"
    write(root, "lost", "x")
    wipe("rollback", root=root)
    assert content(root) == {"release": "base"}
    write(root, "lost", "x")
    outcome = wipe("rotate", root=root)
    assert outcome.problems == []
    assert content(root) == {"release": "base"}
    refused("rotate", "encryption root", root=root, **{"old-roots": f"{TOP}/old"})
    create(BASE, "legacy")
    snapshot(f"{BASE}@blank")
    refused("rotate", f"{BASE} has no encryption", root=root, base=BASE)
    run("zfs", "unload-key", "-r", at)
    for mode in ("rollback", "rotate"):
        refused(mode, "key", "is not loaded", f"zfs load-key {at}", root=root)
    run("zfs", "load-key", at)
    wipe("rotate", root=root, now=NOW + 60)


def case_a_leftover_with_work_in_it() -> None:
    start()
    assert cut_at(3), "the clone is there, and nothing is renamed"
    assert exists(NEW)
    write(NEW, "work", "x")
    snapshot(f"{NEW}@work")
    outcome = wipe("rotate", now=NOW + 60)
    kept = [name for name in outcome.kept if name.endswith(".unused")]
    assert len(kept) == 1
    assert content(f"{OLD}/{kept[0]}")["work"] == "x"
    assert content(ROOT) == {"release": "base"}


def case_a_leftover_of_another_system() -> None:
    """An earlier installation had a root of the same name, and a power cut."""
    start()
    assert cut_at(3, system="0b" * 16)
    own = {"old-roots": f"{TOP}/ours"}
    words = ("a fresh root of another system (0b0b", f'zfs rename "{NEW}" NAME')
    for system in ("0a" * 16, ""):
        refused("rotate", *words, system=system, **own)
    outcome = wipe("rotate", now=NOW + 60, system="0b" * 16)
    assert outcome.recovered == [f"delete {NEW}, a fresh root that never got its place"]
    assert value(ROOT, "ephemeroot:system") == "0b" * 16


def case_a_failure_after_the_fresh_root_has_its_place() -> None:
    """It is a problem, not an error: the root is fresh, and is booted."""
    start()

    def cannot(*_: object, **__: object) -> None:
        raise EphemerootError("the old roots cannot be listed")

    original, Pruning.run = Pruning.run, cannot  # type: ignore[assignment, method-assign]
    try:
        outcome = wipe("rotate")
    finally:
        Pruning.run = original  # type: ignore[method-assign]
    assert outcome.problems == [f"{OLD}: the old roots cannot be listed"], outcome.problems
    assert outcome.fresh["dataset"] == ROOT
    assert content(ROOT) == {"release": "base"}
    assert exists(f"{OLD}/{outcome.retired}")


def case_retention() -> None:
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
    # What has something in it, is used, or is not ours stays, and the boot says so.
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
    # In the same second: another one is not a day older than it may be.
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
        # Kept by hand, and let go again: one rename each, of what was listed and is still there.
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
        assert "is not the dataset it was" in said, said
        available, total = opened.space()
        assert 0 < available < total


def case_an_old_root_is_booted() -> None:
    start()
    destroy(f"{ROOT}@blank")  # an old root with a snapshot of somebody else's stays
    write(ROOT, "wanted", "x")
    first = wipe("rotate").retired
    live()
    outcome = wipe("rotate", now=NOW + 60, request=first)
    assert content(ROOT) == {"release": "base", "wanted": "x"}
    assert value(ROOT, "origin").startswith(f"{OLD}/{first}@ephemeroot-")
    live()
    # The old root stays as long as something is made of it, and then it can go, and its snapshot.
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


def case_old_roots_are_looked_into() -> None:
    """`ephemeroot roots` and `diff`, for a root on ZFS that is mounted somewhere."""
    start()
    destroy(f"{ROOT}@blank")  # an old root with a snapshot of somebody else's stays
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
    return {one["path"]: one["change"] for one in said["differences"]}


# A sample of these, or what is close to them, is in the others.
ONLY_PROOF = (
    zfs_faults.case_thousands_of_snapshots,
    zfs_recipes.case_a_root_that_was_received_raw,
    zfs_recipes.case_a_rotated_root_is_replicated,
    zfs_states.case_a_pool_of_another_machine,
    zfs_states.case_a_pool_that_is_degraded,
)


def _say(line: str) -> None:
    """Also on the console, whose log a test that ran out of time leaves."""
    print(line, flush=True)
    with open("/dev/console", "w") as console:
        console.write(f"{line}\n")


def main() -> None:
    only = sys.argv[1:]
    subprocess.run(["zpool", "destroy", "-f", POOL], capture_output=True)
    with IMAGE.open("wb") as file:
        file.truncate(1 << 30)
    run("zpool", "create", "-f", "-O", "mountpoint=none", POOL, str(IMAGE))
    known = [zfs_faults, zfs_states, zfs_recipes]
    found = [*globals().items(), *(item for module in known for item in vars(module).items())]
    cases = [(n, c) for n, c in found if n.startswith("case_") and (WHOLE or c not in ONLY_PROOF)]
    passed = 0
    for name, case in cases:
        if only and name.removeprefix("case_") not in only:
            continue
        begun = time.monotonic()
        try:
            case()
        except Exception:  # noqa: BLE001  # the others have their turn all the same
            traceback.print_exc()
            _say(f"{name}: FAILED")
            continue
        passed += 1
        _say(f"{name}: {time.monotonic() - begun:.1f} s")
    run("zpool", "destroy", "-f", POOL)
    IMAGE.unlink()
    print(f"passed {passed} of {len(cases)}")


if __name__ == "__main__":
    main()
