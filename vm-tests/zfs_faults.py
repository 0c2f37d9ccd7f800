"""Cases of zfs_cases.py: faults that were found by reading the backend against OpenZFS."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import zfs_pool
from ephemeroot.errors import Refused
from ephemeroot.wipers.zfs import datasets
from zfs_pool import (
    BASE,
    NEW,
    NOW,
    OLD,
    POOL,
    ROOT,
    TOP,
    Told,
    bootfs,
    clone,
    complaint,
    content,
    create,
    exists,
    foreseen,
    live,
    names_of,
    refused,
    run,
    snapshot,
    start,
    value,
    wipe,
    write,
)

CUT = Path("/dev/shm/cut")  # the folder of the pool that is cut off


def follow(said: str, **names: str) -> str:
    """Run the first command that *said* has in quotes, as a reader would, in a shell; a word in
    capitals that stands for a name is in *names*. Returns the command.
    """
    command: str = re.findall(r"'((?:zfs|zpool) [^']+)'", said)[0]
    for word, name in names.items():
        command = re.sub(rf"\b{word}\b", name, command)
    run("sh", "-c", command)
    return command


def source(name: str, key: str) -> str:
    return run("zfs", "get", "-Hpo", "source", key, name).strip()


# Power cuts


class Replay:
    """A pool as it was after each transaction group of *action*: a power cut leaves one of these.

    The pool is imported at that transaction group again (zpool-import(8), -T), as often as asked.
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
        run("zpool", "import", "-N", "-d", str(zfs_pool.IMAGE.parent), POOL)


def case_power_cut_in_each_transaction_group_of_a_rotation() -> None:
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
        if have == (True, False, True) and have in seen and not zfs_pool.WHOLE:
            run("zpool", "export", POOL)
            break
        bare = have[1] and value(NEW, "ephemeroot:of") == "nil"
        bare_parent = have[2] and value(OLD, "canmount") == "on"
        state = (have, bare, bare_parent)
        if state in seen and not zfs_pool.WHOLE:
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
    # Which of them a transaction group ends with depends on how fast the machine is.
    assert len(wanted & seen) >= 2, seen


def case_power_cut_in_each_transaction_group_of_a_rollback() -> None:
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


def case_a_clone_that_is_not_ours() -> None:
    """The mark of a rotation that failed is gone, and a clone with other properties is kept."""
    start()
    refused("rotate", "could not boot", fail="prove")
    clone(f"{BASE}@blank", NEW, "legacy")
    refused("rotate", f"{NEW} exists and was not made")
    datasets.mark(ROOT, "ephemeroot:clones", datasets.look(f"{BASE}@blank")[f"{BASE}@blank"].guid)
    run("zfs", "set", "my:own=x", NEW)
    refused("rotate", f"{NEW} exists and was not made")
    run("zfs", "inherit", "my:own", NEW)
    outcome = wipe("rotate")
    assert len(outcome.recovered) == 1
    assert [name for name in outcome.kept if name.endswith(".unused")], outcome.kept


def case_the_root_is_missing_and_was_not_retired() -> None:
    start()
    first = wipe("rotate").retired
    live()
    clone(f"{BASE}@blank", NEW, "legacy")
    datasets.mark(NEW, "ephemeroot:of", value(ROOT, "guid"))
    run("zfs", "rename", ROOT, f"{TOP}/elsewhere")
    refused("rotate", f"{ROOT} is missing", "is not in", "zfs rename")
    run("zfs", "rename", f"{TOP}/elsewhere", f"{OLD}/2027-01-15T08-00-30Z")
    outcome = wipe("rotate", now=NOW + 60)
    assert exists(f"{OLD}/{first}")
    assert len(outcome.recovered) == 1, outcome.recovered


# Hints, followed to the letter


def case_hints_of_a_rollback_keep_the_blank_snapshot() -> None:
    start()
    run("zfs", "set", "ephemeroot:state=lived", ROOT)
    write(ROOT, "lost", "x")
    snapshot(f"{ROOT}@held", f"{ROOT}@cloned", f"{ROOT}@marked")
    run("zfs", "hold", "my tag", f"{ROOT}@held")
    clone(f"{ROOT}@cloned", f"{TOP}/a copy", "none")
    run("zfs", "bookmark", f"{ROOT}@marked", f"{ROOT}#mark")
    done = []
    while said := complaint(Refused, lambda: wipe("rollback")):
        # A boot names all bookmarks first, and nothing else; a check names everything.
        reasons = said.partition(" ('")[0].partition("@blank: ")[2].split("; ")
        (check,) = foreseen("rollback")
        assert all(reason in check for reason in reasons), (said, check)
        done.append(follow(said))
        assert f"{ROOT}@blank" in names_of("snapshot", ROOT), said
    assert set(done) == {
        f'zfs destroy "{ROOT}#mark"',
        f'zfs destroy "{TOP}/a copy"',
        f'zfs release "my tag" "{ROOT}@held"',
    }
    assert content(ROOT) == {"release": "base"}
    assert foreseen("rollback") == []


def case_the_blank_snapshot_moved_to_a_clone() -> None:
    """By promoting that; a snapshot of the used root must not take its name."""
    start()
    run("zfs", "set", "ephemeroot:state=lived", ROOT)
    snapshot(f"{ROOT}@later")
    clone(f"{ROOT}@later", f"{TOP}/copy", "none")
    snapshot(f"{TOP}/copy@later still")
    clone(f"{TOP}/copy@later still", f"{TOP}/copy of it", "none")
    write(ROOT, "lost", "x")
    run("zfs", "promote", f"{TOP}/copy")
    run("zfs", "promote", f"{TOP}/copy of it")
    said = complaint(Refused, lambda: wipe("rollback"))
    assert f"{TOP}/copy of it@blank" in said, said
    assert foreseen("rollback") == [said]
    assert f"zfs snapshot {ROOT}" not in said
    follow(said)
    said = complaint(Refused, lambda: wipe("rollback"))
    assert f"{ROOT}@later has the clone" in said, said
    # The base's, likewise.
    start()
    clone(f"{BASE}@blank", f"{TOP}/copy", "none")
    run("zfs", "promote", f"{TOP}/copy")
    said = complaint(Refused, lambda: wipe("rotate"))
    assert f"{TOP}/copy@blank" in said, said
    assert foreseen("rotate") == [said]
    follow(said)
    assert foreseen("rotate") == []
    wipe("rotate")


def case_hints_of_a_rotation() -> None:
    start()
    create(f"{ROOT}/inside", "none")
    follow(complaint(Refused, lambda: wipe("rotate")), NAME=f"{TOP}/inside")
    run("zfs", "set", "mountpoint=/cases", ROOT)
    run("zfs", "set", "-u", "canmount=on", ROOT)
    run("sh", "-c", _hint(lambda: wipe("rotate")))
    for name, key in ((BASE, "the base"), (OLD, "old-roots")):
        if not exists(name):
            create(name, "none")
        for point in ("/", "/cases"):
            run("zfs", "set", "-u", f"mountpoint={point}", "canmount=on", name)
            refused("rotate", f"{key} {name} has canmount=on and mountpoint={point}")
        run("sh", "-c", _hint(lambda: wipe("rotate")))
        run("zfs", "set", "-u", "mountpoint=/elsewhere", "canmount=on", name)
    wipe("rotate")


def _hint(action: Callable[[], object]) -> str:
    said = complaint(Refused, action)
    assert foreseen("rotate") == [said]
    return said.rpartition(" (")[2].rstrip(")")


def case_the_first_rollback_does_not_destroy_snapshots() -> None:
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
    # From the first rollback on it is known that they go.
    snapshot(*names)
    wipe("rollback")
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]


# Properties


def case_received_properties_follow_the_root() -> None:
    start(mountpoint="none")
    settings = {
        "acltype": "posix", "xattr": "sa", "compression": "gzip-3", "mountpoint": "legacy",
        "quota": str(200 << 20), "recordsize": "16384", "my:own": "a b",
    }  # fmt: skip
    run("zfs", "set", *(f"{key}={text}" for key, text in settings.items()), ROOT)
    run("zfs", "set", "atime=off", ROOT)
    run("sh", "-c", f"zfs send -p '{ROOT}@blank' | zfs receive -u '{TOP}/received'")
    run("zfs", "destroy", "-r", ROOT)
    run("zfs", "rename", f"{TOP}/received", ROOT)
    run("zfs", "inherit", "atime", ROOT)
    assert {source(ROOT, key) for key in settings} == {"received"}
    words = ("zfs", "get", "-Hpo", "property,value", ",".join(settings), ROOT)
    before = run(*words)
    wipe("rotate")
    assert run(*words) == before
    assert (value(ROOT, "canmount"), value(ROOT, "atime")) == ("noauto", "on")
    assert content(ROOT) == {"release": "base"}


def case_thousands_of_snapshots() -> None:
    """They go in one transaction group: a program must not run out of what the kernel allows."""
    start()
    run("zfs", "set", "ephemeroot:state=lived", ROOT)
    count = 5000 if zfs_pool.WHOLE else 40
    for number in range(count):
        snapshot(f"{ROOT}@{number}")
    write(ROOT, "lost", "x")
    told = Told()
    wipe("rollback", told=told)
    assert names_of("snapshot", ROOT) == [f"{ROOT}@blank"]
    assert content(ROOT) == {"release": "base"}
    assert len(told.lines) < 30, told.lines
    assert f"the last one {ROOT}@{count - 1}" in told.lines[20]
