"""Pools that are full, read-only, suspended, degraded, or of another host."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ephemeroot.errors import Refused
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers.zfs import datasets
from zfs_pools.pool import (
    BASE,
    DAY,
    HINT,
    IMAGE,
    MIB,
    NOW,
    OLD,
    POOL,
    ROOT,
    SMALL,
    TOP,
    another_pool,
    complaint,
    content,
    follow,
    foreseen,
    history,
    live,
    mounted,
    only_in_proof,
    run,
    start,
    value,
    wipe,
    write,
)

HOST_ID = Path("/sys/module/spl/parameters/spl_hostid")


def fill(name: str, size: int) -> None:
    with mounted(name) as top:
        (top / "large").write_bytes(os.urandom(size))


def three_large_old_roots() -> list[str]:
    """Each of 8 MiB; the first is .keep."""
    kept = []
    for day in range(3):
        fill(ROOT, 8 * MIB)
        kept = wipe("rotate", now=NOW + day * DAY).kept
        live()
    return kept


def refused_by_both(*words: str) -> None:
    """A rollback and a rotation; it is not possible to check whether such a pool has changed."""
    said = complaint(Refused, lambda: wipe("rollback"))
    said_too = complaint(Refused, lambda: wipe("rotate"))
    assert all(word in said and word in said_too for word in words), (said, said_too)


@contextmanager
def declared() -> Iterator[tuple[Path, Any]]:
    """A machine whose root is the mounted one, and a function that calls `ephemeroot` for it."""
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        for folder in ("etc/ephemeroot", "etc/kernel"):
            (top / folder).mkdir(parents=True)
        (top / "etc/kernel/cmdline").write_text(f"root=zfs:{ROOT.replace(' ', '+')} ro\n")
        settings: dict[str, object] = {"mode": "rotate", "base": BASE}
        attribute = "ephemeroot.wipers.zfs:Zfs"
        made = Wipe(target="/", wiper="zfs", attribute=attribute, settings=settings)
        (top / "etc/ephemeroot/plan.json").write_bytes(Plan(wipe=[made], persist=[]).dump())
        yield top, lambda *words: run("ephemeroot", "--root", place, *words)


def case_min_free_respects_quotas_checkpoints_and_reservations() -> None:
    """A quota above the old roots leaves less than the pool has. Space that a checkpoint or a
    reservation holds does not become free.
    """
    start()
    kept = three_large_old_roots()
    few: dict[str, Any] = {"min-free": "8M", "keep-last": 0}
    used = int(value(TOP, "used"))
    run("zfs", "set", f"quota={used + 4 * MIB}", TOP)
    with history() as opened:
        assert opened.space()[0] <= 4 * MIB
        assert opened.space()[1] <= used + 4 * MIB
    run("zpool", "checkpoint", POOL)
    outcome = wipe("rotate", now=NOW + 4 * DAY, **few)
    assert outcome.pruned == []
    (line,) = [line for line in outcome.problems if "checkpoint" in line]
    assert follow(f"{HINT}{line}") == f"zpool checkpoint -d {POOL}"
    run("zpool", "wait", "-t", "discard", POOL)
    live()
    outcome = wipe("rotate", now=NOW + 5 * DAY, **few)
    assert outcome.problems == []
    assert outcome.pruned == kept[1:2]
    assert int(value(TOP, "available")) >= 8 * MIB
    live()
    run("zfs", "set", "quota=none", TOP)
    run("zfs", "set", "reservation=100M", OLD)
    run("zfs", "set", f"quota={int(value(TOP, 'used')) + 2 * MIB}", TOP)
    outcome = wipe("rotate", now=NOW + 6 * DAY, **few)
    assert outcome.pruned == kept[2:3]
    assert any("deleting it freed nothing" in line for line in outcome.problems), outcome.problems


@only_in_proof
def case_read_only_pool_is_refused_and_can_be_read() -> None:
    start()
    fill(ROOT, MIB)
    old = str(wipe("rotate").retired)
    live()
    log = run("zpool", "history", "-i", POOL)
    with declared() as (top, call):
        with history() as opened:
            assert opened.facts(opened.find(old)).size
        run("zpool", "sync", POOL)
        assert run("zpool", "history", "-i", POOL) == log, "reading is not part of the history"
        run("zpool", "export", POOL)
        run("zpool", "import", "-N", "-o", "readonly=on", "-d", str(IMAGE.parent), POOL)
        refused_by_both(f"the pool {POOL} is imported read-only")
        _read_verbs(call, old)
        call("roots", "restore", "/large", "--from", old)
        assert (top / "large").stat().st_size == MIB
        done = subprocess.run(
            ["ephemeroot", "--root", str(top), "roots", "unkeep", old],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done
        assert "read-only" in done.stderr, done
        run("zpool", "export", POOL)
        run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)
    wipe("rotate", now=NOW + 60)


def _read_verbs(call: Any, old: str) -> None:
    (listed,) = json.loads(call("roots", "list", "--json"))["histories"]
    assert [entry["name"] for entry in listed["entries"]] == [old], listed
    shown = json.loads(call("roots", "show", old, "--json"))
    assert (shown["state"], shown["size"] > MIB) == (None, True), shown
    with tempfile.TemporaryDirectory() as place:
        call("roots", "mount", old, place)
        try:
            assert Path(place, "large").stat().st_size == MIB
        finally:
            datasets.unmount(place)


@only_in_proof
def case_suspended_pool_is_refused() -> None:
    """By a disk that accepts no writes: its file is on a full tmpfs."""
    run("zpool", "export", POOL)
    SMALL.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", str(SMALL))
    try:
        with (SMALL / "image").open("wb") as file:
            file.truncate(256 << 20)
        words = ("-o", "failmode=continue", "-O", "mountpoint=none")
        run("zpool", "create", "-f", *words, POOL, str(SMALL / "image"))
        start()
        run("sh", "-c", f"head -c 64M /dev/zero > {SMALL}/full || true")
        writer = subprocess.Popen(["zfs", "set", f"my:own={'x' * 4000}", ROOT])
        while run("zpool", "list", "-Ho", "health", POOL).strip() != "SUSPENDED":
            time.sleep(0.1)
        refused_by_both(f"the pool {POOL} is suspended")
        said = complaint(Refused, lambda: wipe("rotate"))
        assert "is suspended" in complaint(Refused, history)
        (SMALL / "full").unlink()
        follow(said)
        writer.wait()
        assert content(ROOT) == {"release": "base"}
        follow(said, 1)
        run("zpool", "destroy", "-f", POOL)
    finally:
        subprocess.run(["umount", "-l", str(SMALL)])
    run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)


@only_in_proof
def case_pool_of_another_host_is_refused_until_imported_by_force() -> None:
    """It was not exported there: nothing imports it without force."""
    start()
    run("zpool", "sync", POOL)
    own = HOST_ID.read_text()
    run("zpool", "export", POOL)
    try:
        HOST_ID.write_text("287454020")
        run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)
        copy = SMALL / "copy"
        SMALL.mkdir(exist_ok=True)
        run("zpool", "sync", POOL)
        run("cp", "--sparse=always", str(IMAGE), str(copy))
        run("zpool", "export", POOL)
        HOST_ID.write_text(own)
        done = subprocess.run(
            ["zpool", "import", "-N", "-d", str(SMALL), POOL], capture_output=True, text=True
        )
        assert "another system" in done.stdout + done.stderr, done
        refused_by_both(f"the pool {POOL} is not imported")
        follow(complaint(Refused, lambda: wipe("rotate")), 1, where=SMALL)
        wipe("rotate")
        run("zpool", "export", POOL)
        copy.unlink()
    finally:
        HOST_ID.write_text(own)
    run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)


@only_in_proof
def case_degraded_pool_is_wiped() -> None:
    run("zpool", "export", POOL)
    SMALL.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(SMALL))
    halves = [str(SMALL / name) for name in ("one", "two")]
    try:
        run("truncate", "-s", "64M", *halves)
        run("zpool", "create", "-f", "-O", "mountpoint=none", POOL, "mirror", *halves)
        start()
        run("zpool", "offline", POOL, halves[0])
        assert run("zpool", "list", "-Ho", "health", POOL).strip() == "DEGRADED"
        wipe("rollback")
        assert wipe("rotate").problems == []
        run("zpool", "destroy", "-f", POOL)
    finally:
        run("umount", str(SMALL))
    run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)


@only_in_proof
def case_pool_without_features_is_wiped() -> None:
    """Of the oldest version, and of the present one with all features disabled."""
    for options in (("-o", "version=28"), ("-d",)):
        with another_pool(*options):
            start()
            wipe("rollback")
            write(ROOT, "lost", "x")
            assert foreseen("rollback") == []
            wipe("rollback", now=NOW + 60)
            assert wipe("rotate", now=NOW + 120).problems == []
            live()
            assert foreseen("rotate") == []
            assert wipe("rotate", now=NOW + 180).problems == []
            assert content(ROOT) == {"release": "base"}
