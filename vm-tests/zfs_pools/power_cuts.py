"""Power cuts during a wipe: the pool as each transaction group has left it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from zfs_pools.pool import (
    BASE,
    IMAGE,
    NEW,
    NOW,
    OLD,
    POOL,
    ROOT,
    WHOLE,
    Told,
    bootfs,
    content,
    exists,
    names_of,
    run,
    snapshot,
    source,
    start,
    value,
    wipe,
    write,
)

CUT = Path("/dev/shm/cut")  # the folder of the interrupted pool


class Replay:
    """A pool as it was after each transaction group of *action*: a power cut leaves one of these.

    The pool is imported again at that transaction group (zpool-import(8), -T), as often as needed.
    """

    def __init__(self, prepare: Callable[[], None], action: Callable[[], object]) -> None:
        run("zpool", "export", POOL)
        shutil.rmtree(CUT, ignore_errors=True)
        CUT.mkdir()
        image = CUT / "image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        run("zpool", "create", "-f", "-O", "mountpoint=none", POOL, str(image))
        start()
        prepare()
        self.first = self._now("begin")
        action()
        self.last = self._now("end")
        run("zpool", "export", POOL)
        self.saved = CUT / "saved"
        image.rename(self.saved)

    @staticmethod
    def _now(name: str) -> int:
        snapshot(f"{BASE}@{name}")
        return int(value(f"{BASE}@{name}", "createtxg"))

    def at(self, group: int) -> None:
        run("cp", "--sparse=always", str(self.saved), str(CUT / "image"))
        run("zpool", "import", "-N", "-d", str(CUT), "-F", "-T", str(group), POOL)

    def close(self) -> None:
        subprocess.run(["zpool", "destroy", "-f", POOL], capture_output=True)
        shutil.rmtree(CUT)
        run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)


def case_rotation_completes_after_a_cut_in_each_transaction_group() -> None:
    """An ioctl is more than one of them: a clone exists before its properties do."""

    def prepare() -> None:
        run("zpool", "set", f"bootfs={ROOT}", POOL)
        run("zfs", "set", "refreservation=4M", "quota=40M", ROOT)
        write(ROOT, "precious", "x")

    replay = Replay(prepare, lambda: wipe("rotate"))
    replay.at(replay.first)
    guid = value(ROOT, "guid")
    run("zpool", "export", POOL)
    seen = set()
    for group in range(replay.first, replay.last + 1):
        replay.at(group)
        have = tuple(exists(name) for name in (ROOT, NEW, OLD))
        if have == (True, False, True) and have in seen and not WHOLE:
            run("zpool", "export", POOL)
            break
        bare = have[1] and value(NEW, "ephemeroot:of") == "nil"
        bare_parent = have[2] and value(OLD, "canmount") == "on"
        state = (have, bare, bare_parent)
        if state in seen and not WHOLE:
            run("zpool", "export", POOL)
            continue
        seen |= {have, state, "bare clone" * bare, "bare old-roots" * bare_parent}
        told = Told()
        outcome = wipe("rotate", told=told, now=NOW + 60)
        said = (group, have, outcome.recovered, outcome.kept, outcome.problems)
        assert outcome.problems == [], said
        assert told.previous == [(["precious", "release"], True)], said
        assert content(ROOT) == {"release": "base"}, said
        assert not exists(NEW), said
        old = [name for name in names_of("filesystem", OLD) if "precious" in content(name)]
        assert len(old) == 1, said
        assert old[0].endswith(".keep"), said
        assert (value(old[0], "guid"), value(old[0], "refreservation")) == (guid, "0"), said
        assert value(OLD, "canmount") == "off", said
        assert (source(OLD, "mountpoint"), source(ROOT, "quota")) == ("local", "local"), said
        assert (value(ROOT, "refreservation"), bootfs()) == (str(4 << 20), ROOT), said
        run("zpool", "export", POOL)
    replay.close()
    wanted = {"bare clone", "bare old-roots", (False, True, True), (True, False, True)}
    # The transaction group that ends with each of them depends on the speed of the machine.
    assert len(wanted & seen) >= 2, seen


def case_rollback_completes_after_a_cut_in_each_transaction_group() -> None:
    def prepare() -> None:
        wipe("rollback")
        write(ROOT, "lost", "x")
        snapshot(f"{ROOT}@later", f"{ROOT}@latest")

    replay = Replay(prepare, lambda: wipe("rollback"))
    for group in range(replay.first, replay.last + 1):
        replay.at(group)
        left = names_of("snapshot", ROOT)
        assert (len(left), "lost" in content(ROOT)) in ((3, True), (1, False)), (group, left)
        wipe("rollback")
        assert content(ROOT) == {"release": "base"}
        run("zpool", "export", POOL)
    replay.close()
