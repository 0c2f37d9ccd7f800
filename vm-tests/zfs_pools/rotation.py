"""Rotations of datasets on a real pool."""

from __future__ import annotations

import re
import subprocess

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.wipers.pruning import Pruning
from ephemeroot.wipers.zfs import Zfs, datasets
from zfs_pools.pool import (
    BASE,
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
    follow,
    live,
    mounted,
    only_in_proof,
    refused,
    run,
    snapshot,
    source,
    start,
    state,
    value,
    wipe,
    write,
)


def case_rotation_replaces_the_root_and_keeps_the_previous_one() -> None:
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
    # None of its boots was complete: it is not part of the history, and the previous one is the
    # source.
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
    assert told.lines[-1].startswith("rename the fresh root to"), told.lines


def case_rotation_is_refused_when_root_base_or_old_roots_are_wrong() -> None:
    start()
    create(f"{ROOT}/inside", "none")
    refused("rotate", f"{ROOT}/inside", "zfs rename")
    destroy(f"{ROOT}/inside")
    run("zfs", "set", "mountpoint=/cases", ROOT)
    run("zfs", "set", "-u", "canmount=on", ROOT)
    refused("rotate", "canmount=on", f'zfs set canmount=noauto "{ROOT}"')
    run("zfs", "set", "canmount=noauto", ROOT)
    refused("rotate", f"the base {TOP}/none does not exist", base=f"{TOP}/none")
    refused("rotate", "is in the root", base=f"{ROOT}/base")
    refused("rotate", "is in old-roots", base=f"{OLD}/base")
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
    follow(complaint(Refused, lambda: wipe("rotate")))
    wipe("rotate")


def case_encrypted_roots_rotate_within_their_encryption_root() -> None:
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


def case_interrupted_clone_that_was_written_to_is_retired() -> None:
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


@only_in_proof
def case_clone_of_another_system_is_left_alone() -> None:
    """An earlier installation had a root of the same name, and a power cut."""
    start()
    assert cut_at(3, system="0b" * 16)
    own = {"old-roots": f"{TOP}/ours"}
    words = ("a fresh root of another system (0b0b", f'zfs rename "{NEW}" NAME')
    for system in ("0a" * 16, ""):
        refused("rotate", *words, system=system, **own)
    outcome = wipe("rotate", now=NOW + 60, system="0b" * 16)
    assert outcome.recovered == [f"delete {NEW}, a fresh root that never became the root"]
    assert value(ROOT, "ephemeroot:system") == "0b" * 16


@only_in_proof
def case_failure_after_placement_is_a_problem_and_the_new_root_boots() -> None:
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


@only_in_proof
def case_clone_made_by_another_program_is_kept() -> None:
    """The mark of a failed rotation is missing, and a clone with other properties is kept."""
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


@only_in_proof
def case_missing_root_that_was_not_retired_is_refused() -> None:
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


_GENERIC = {
    "<size>": "64M", "<count>": "50", "<path>": "/cases", "512 to 1M, power of 2": "4096",
    "zero or 512 to 1M, power of 2": "8192", "NFS share options": "ro", "SMB share options": "on",
}  # fmt: skip
# Of volumes, of another device; set by the wipe; not for a mount on the machine that runs the
# tests.
_NOT_OF_A_ROOT = (
    "canmount", "keylocation", "mlslabel", "special_small_blocks", "version", "volsize",
    "volthreading", "zoned",
)  # fmt: skip


def _settable() -> dict[str, list[str]]:
    """The properties that can be set, each with its values, as zfs(8) lists them."""
    usage = subprocess.run(["zfs", "get"], capture_output=True, text=True)
    found = {}
    for line in (usage.stdout + usage.stderr).splitlines():
        row = re.fullmatch(r"\t(\S+) +YES +(?:YES|NO) +(.*)", line)
        if row is None or "@" in row[1] or row[1] in _NOT_OF_A_ROOT or "context>" in row[2]:
            continue
        words = [_GENERIC.get(word, word) for word in row[2].split(" | ")]
        # gzip-[1-9] is gzip-9, sha256[,verify] is sha256,verify.
        words = [re.sub(r"\[(?:[^]]*[-,])?(\d+|,verify)\]", r"\1", word) for word in words]
        found[row[1]] = words
    assert len(found) > 35, usage
    return found


@only_in_proof
def case_each_property_of_the_root_follows_it() -> None:
    """Every property that zfs(8) can set, with each of its values; in CI with the first two."""
    table = _settable()
    most = max(len(words) for words in table.values())
    for number in range(most if WHOLE else 2):
        start()
        chosen = {key: words[min(number, len(words) - 1)] for key, words in table.items()}
        if chosen["quota"] != "none":
            chosen |= {"quota": "256M", "refquota": "128M"}  # more than the reserved space
        run("zfs", "set", "-u", *(f"{key}={word}" for key, word in chosen.items()), ROOT)
        words = ("zfs", "get", "-Hpo", "property,value", ",".join(table), ROOT)
        before = run(*words).splitlines()
        outcome = wipe("rotate", now=NOW + number)
        assert outcome.problems == [], (chosen, outcome.problems)
        assert run(*words).splitlines() == before, chosen
        assert content(ROOT) == {"release": "base"}


@only_in_proof
def case_names_of_every_kind_are_wiped() -> None:
    """With every name that zfsconcepts(7) allows, up to the longest."""
    longest = 255 - len(f"{TOP}/.ephemeroot-new")
    names = ["a b:c d", "n" * longest, "a:b", "-x.y_z", " "]
    for name in names if WHOLE else names[:2]:
        root = f"{TOP}/{name}"
        start()
        clone(f"{BASE}@blank", root, "legacy")
        snapshot(f"{root}@blank" if len(root) < 200 else f"{root}@b")
        short = "blank" if len(root) < 200 else "b"
        write(root, "lost", "x")
        wipe("rollback", root=root, snapshot=short)
        assert content(root) == {"release": "base"}
        destroy(f"{root}@{short}")
        write(root, "lost", "x")
        outcome = wipe("rotate", root=root)
        assert outcome.problems == []
        assert content(root) == {"release": "base"}
        assert content(f"{OLD}/{outcome.retired}") == {"release": "base", "lost": "x"}
