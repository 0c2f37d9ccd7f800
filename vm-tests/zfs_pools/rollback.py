"""Rollbacks of datasets on a real pool."""

from __future__ import annotations

import os

from complete_boot import mark_boot_complete
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.wipers.zfs import Zfs, channel
from zfs_pools.pool import (
    BASE,
    MIB,
    POOL,
    ROOT,
    TOP,
    WHOLE,
    Told,
    another_pool,
    clone,
    complaint,
    content,
    destroy,
    follow,
    foreseen,
    live,
    mounted,
    names_of,
    only_in_proof,
    refused,
    run,
    snapshot,
    start,
    state,
    wipe,
    write,
)


def case_rollback_restores_the_blank_snapshot_and_destroys_later_ones() -> None:
    start()
    write(ROOT, "lost", "x")
    snapshot(f"{ROOT}@later")
    write(ROOT, "lost-too", "x")
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
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
    # None of its boots was complete: it is not a source for seeding.
    told = Told()
    wipe("rollback", told=told)
    assert told.previous == [(["release"], False)]
    live()
    told = Told()
    wipe("rollback", told=told)
    assert told.previous == [(["release"], True)]
    with mounted(BASE) as top:
        assert not mark_boot_complete(wiper, top), "not made by a wipe"


def case_rollback_is_refused_with_holds_clones_bookmarks_and_mounts() -> None:
    start()
    write(ROOT, "lost", "x")
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
    # No snapshot is destroyed if another one cannot be.
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


@only_in_proof
def case_rollback_is_refused_when_the_snapshot_exceeds_refquota() -> None:
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
    run("zfs", "set", "refquota=2M", "ephemeroot:state=boot-complete", ROOT)
    refused("rollback", "larger than the dataset's refquota", snapshot="large")
    run("zfs", "set", "refquota=none", ROOT)
    wipe("rollback", snapshot="large")
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank", f"{ROOT}@large"]


@only_in_proof
def case_missing_datasets_and_pools_are_named() -> None:
    start()
    refused(
        "rollback", f"{ROOT}@none does not exist", f'zfs snapshot "{ROOT}@none"', snapshot="none"
    )
    missing = f"{TOP}/none"
    refused("rollback", f"{missing} does not exist", "zfs list", root=missing)
    follow(complaint(Refused, lambda: wipe("rollback", root=missing)))
    refused("rollback", "pool nowhere is not imported", "zpool import -N nowhere", root="nowhere/x")
    run("zfs", "create", "-V", "8M", f"{TOP}/volume")
    refused("rollback", "is a volume", root=f"{TOP}/volume")
    # The pool's bootfs is the booted root, so it must be the dataset of the plan.
    refused("rollback", "bootfs", f'zpool set "bootfs={ROOT}" {POOL}', line="zfs:AUTO")
    run("zpool", "set", f"bootfs={ROOT}", POOL)
    wipe("rollback", line="zfs:AUTO")


def case_first_rollback_refuses_to_destroy_snapshots() -> None:
    start()
    names = [f"{ROOT}@z first", f"{ROOT}@autosnap_2026", f"{ROOT}@a last"]
    for name in names:
        snapshot(name)
    refused("rollback", f"newer than {ROOT}@blank", *names, dry_run=True)
    assert foreseen("rollback") == [complaint(Refused, lambda: wipe("rollback"))]
    refused("rollback", f"newer than {ROOT}@blank", *names)
    follow(complaint(Refused, lambda: wipe("rollback")))
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]
    wipe("rollback")
    # After the first rollback it is known that later snapshots are destroyed.
    snapshot(*names)
    wipe("rollback")
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]


def case_rollback_that_did_not_happen_is_an_error() -> None:
    """The kernel reports success and has done nothing: it is looked at afterwards."""

    def nothing(*_: object) -> dict[str, object]:
        return {}

    for late in (True, False):
        start()
        run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
        write(ROOT, "lost", os.urandom(2 * MIB).hex())
        if late:
            snapshot(f"{ROOT}@later")
        run("zpool", "sync", POOL)
        original, channel.change = channel.change, nothing  # type: ignore[assignment]
        try:
            said = complaint(EphemerootError, lambda: wipe("rollback"))
        finally:
            channel.change = original
        assert f"{ROOT} was rolled back to {ROOT}@blank, but its newest snapshot is" in said, said
        assert ("@later" in said.partition("but its")[2]) == late, said


@only_in_proof
def case_rollback_destroys_thousands_of_snapshots_at_once() -> None:
    """They are destroyed in one transaction group: a program must not exceed the kernel's limits.

    From version 26 of the pool on, each snapshot has a list with an entry for every earlier one
    (SPA_VERSION_DEADLISTS): the time for destroying them grows with the square of their number, in
    a machine without KVM 25 seconds for 600 and 236 for 2,000.
    """
    with another_pool("-o", "version=25", size=256 * MIB):
        _destroy(5000 if WHOLE else 40)


@only_in_proof
def case_rollback_destroys_the_newest_snapshot_first() -> None:
    start()
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
    for name in ("c", "a", "b"):
        snapshot(f"{ROOT}@{name}")
    run("zpool", "sync", POOL)
    wipe("rollback")
    log = run("zpool", "history", "-i", POOL).splitlines()
    gone = [line for line in log if " destroy " in line and f"{ROOT}@" in line]
    names = [line.partition(f"{ROOT}@")[2].partition(" ")[0] for line in gone]
    assert names[-3:] == ["b", "a", "c"], gone


def _destroy(count: int) -> None:
    start()
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
    for number in range(count):
        snapshot(f"{ROOT}@{number}")
    write(ROOT, "lost", "x")
    assert foreseen("rollback") == []
    told = Told()
    wipe("rollback", told=told)
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]
    assert content(ROOT) == {"release": "base"}
    assert len(told.lines) < 30, told.lines
    assert f"the last one {ROOT}@{count - 1}" in told.lines[20]
