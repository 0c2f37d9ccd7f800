"""Hints of refusals, run unchanged in a shell."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ephemeroot.config import datasets as volumes
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mounts, shell
from ephemeroot.wipers.zfs import datasets
from zfs_pools.pool import (
    BASE,
    DAY,
    HINT,
    IMAGE,
    MIB,
    NEW,
    NOW,
    OLD,
    POOL,
    ROOT,
    TOP,
    clone,
    complaint,
    content,
    create,
    destroy,
    exists,
    follow,
    foreseen,
    history,
    live,
    mounted,
    names_of,
    only_in_proof,
    refused,
    run,
    snapshot,
    start,
    state,
    value,
    wipe,
    write,
)

HINTS: dict[str, str] = {
    "'zfs create -o mountpoint=none {}', or name another place":
        "hints.hints_of_a_rotation_make_it_possible",
    "'zfs destroy {}' deletes it; if a backup program made it, exclude {} from that first":
        "hints.hints_of_a_rollback_keep_the_blank_snapshot",
    "'zfs destroy {}' deletes the clone; do not promote it, or {} becomes a snapshot of {}":
        "hints.hints_of_a_rollback_keep_the_blank_snapshot",
    "'zfs destroy {}' destroys them all; exclude {} from the programs that take them":
        "rollback.first_rollback_refuses_to_destroy_snapshots",
    "run 'zfs destroy {}' first":
        "hints.hints_of_an_old_root_let_it_be_deleted",
    "run 'zfs destroy {}' first, and take no automatic snapshots of the root":
        "hints.hints_of_an_old_root_let_it_be_deleted",
    "'zfs get quota,filesystem_limit,snapshot_limit {}' shows the limits of that dataset, "
    "'zfs set quota=none {}' removes one":
        "hints.quota_of_old_roots_is_kept_by_pruning",
    "'zfs list -r {}' lists the datasets; set dataset, or root=":
        "rollback.missing_datasets_and_pools_are_named",
    "'zfs list -r {}' lists the datasets; set base":
        "hints.hints_of_a_rotation_make_it_possible",
    "'zfs load-key {}' loads it; the initramfs must load it before the wipe":
        "hints.hints_make_a_pool_usable",
    "run 'zfs promote {}' first":
        "hints.hints_of_an_old_root_let_it_be_deleted",
    "run 'zfs release {} {}' first":
        "hints.hints_of_an_old_root_let_it_be_deleted",
    "'zfs release {} {}' removes the hold; if a backup program set it, exclude {} from that first":
        "hints.hints_of_a_rollback_keep_the_blank_snapshot",
    "'zfs rename NAME {}' restores its name, if it still exists; 'zfs rename {} {}' boots a fresh "
    "root instead":
        "hints.hints_of_a_leftover_clone_make_room_for_a_new_one",
    "'zfs rename {} NAME' keeps it, 'zfs destroy {}' deletes it":
        "hints.hints_of_a_leftover_clone_make_room_for_a_new_one",
    "'zfs rename {} NAME' moves one beside the root":
        "hints.hints_of_a_rotation_make_it_possible",
    "'zfs rename {} NAME' moves the root, under a parent that has {}":
        "recipes.init_makes_no_plain_copy_of_an_encrypted_root",
    "'zfs rename {} NAME', with at most {} characters in NAME":
        "hints.hint_shortens_the_name_of_a_root",
    "'zfs set refquota=none {}', or take a smaller blank snapshot":
        "hints.hints_make_room_for_a_rollback",
    "'zpool export {} && zpool import -N {}'":
        "hints.hints_make_a_pool_usable",
    "'zpool import -N {}' imports it; 'zpool import -N -f {}' does if another host had it last and "
    "does not use it any more; 'zpool import' lists the pools that can be imported":
        "pool_states.pool_of_another_host_is_refused_until_imported_by_force",
    "connect the device, then 'zpool clear {}'; 'zpool status {}' names it":
        "pool_states.suspended_pool_is_refused",
    "free space in the pool, or 'zfs set refreservation=none {}'":
        "hints.hints_make_room_for_a_rollback",
    "if it was moved by promoting {}, '{}' moves it back":
        "hints.hint_moves_a_promoted_blank_snapshot_back",
    "modprobe zfs":
        "hints.hint_loads_the_kernel_module",
    "its mount points cannot be copied: 'zpool export {} && zpool import -N {}'":
        "hints.hints_make_a_pool_usable",
    "run 'ephemeroot roots list' to list the old roots":
        "old_roots.roots_and_diff_read_and_restore_from_old_roots",
    "the pool {} has a checkpoint, which keeps the blocks of each dataset that is destroyed ("
    "'zpool checkpoint -d {}' discards it)":
        "pool_states.min_free_respects_quotas_checkpoints_and_reservations",
    "umount {}":
        "hints.hints_of_an_old_root_let_it_be_deleted",
    "when {} has the content that new roots should have: 'zfs snapshot {}'":
        "hints.hints_of_a_rotation_make_it_possible",
    "zfs create -o mountpoint=legacy {}":
        "hints.hints_make_a_store_that_can_be_mounted_and_written_to",
    'zfs load-key "$({})"':
        "hints.hints_make_a_pool_usable",
    "zfs promote {}":
        "rotation.rotation_is_refused_when_root_base_or_old_roots_are_wrong",
    "zfs set canmount=noauto {}":
        "hints.hints_of_a_rotation_make_it_possible",
    "zfs set readonly=off {}":
        "hints.hints_make_a_store_that_can_be_mounted_and_written_to",
    "zfs set refquota=none {}":
        "hints.hints_of_a_rotation_make_it_possible",
    "zpool set {} {}":
        "hints.hints_make_a_pool_usable",
}  # fmt: skip
"""The hints with commands, as in the code ({} for inserted values), and the case that follows each;
`tests/wipers/zfs/test_hints.py` finds a missing one.
"""


def case_hints_of_a_rollback_keep_the_blank_snapshot() -> None:
    start()
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
    write(ROOT, "lost", "x")
    snapshot(f"{ROOT}@held", f"{ROOT}@cloned", f"{ROOT}@marked")
    # Any text can be a tag, and a user with the permission `hold` chooses it.
    tag = 'my "tag" $(touch /run/attacked) `touch /run/attacked` \\'
    run("zfs", "hold", tag, f"{ROOT}@held")
    clone(f"{ROOT}@cloned", f"{TOP}/a copy", "none")
    run("zfs", "bookmark", f"{ROOT}@marked", f"{ROOT}#mark")
    done = []
    while said := complaint(Refused, lambda: wipe("rollback")):
        # A boot names all bookmarks first, and nothing else; `check` names everything.
        reasons = said.partition(HINT)[0].partition("@blank: ")[2].split("; ")
        (check,) = foreseen("rollback")
        assert all(reason in check for reason in reasons), (said, check)
        done.append(follow(said))
        assert f"{ROOT}@blank" in names_of("snapshot", ROOT), said
    assert set(done) == {
        f'zfs destroy "{ROOT}#mark"',
        f'zfs destroy "{TOP}/a copy"',
        f'zfs release {shell.quoted(tag)} "{ROOT}@held"',
    }
    assert not Path("/run/attacked").exists()
    assert content(ROOT) == {"release": "base"}
    assert foreseen("rollback") == []


@only_in_proof
def case_hint_moves_a_promoted_blank_snapshot_back() -> None:
    """By promoting the clone; a snapshot of the used root must not take its name."""
    start()
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
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
    # The same for the base.
    start()
    clone(f"{BASE}@blank", f"{TOP}/copy", "none")
    run("zfs", "promote", f"{TOP}/copy")
    said = complaint(Refused, lambda: wipe("rotate"))
    assert f"{TOP}/copy@blank" in said, said
    assert foreseen("rotate") == [said]
    follow(said)
    assert foreseen("rotate") == []
    wipe("rotate")


def case_hints_of_a_rotation_make_it_possible() -> None:
    start()
    run("zfs", "rename", BASE, f"{TOP}/elsewhere")
    assert f"zfs list -r {POOL}" in follow(foreseen_refusal())
    run("zfs", "rename", f"{TOP}/elsewhere", BASE)
    create(f"{ROOT}/inside", "none")
    follow(refusal("rotate"), NAME=f"{TOP}/inside")
    run("zfs", "set", "mountpoint=/cases", ROOT)
    run("zfs", "set", "-u", "canmount=on", ROOT)
    follow(foreseen_refusal())
    for name, key in ((BASE, "the base"), (OLD, "old-roots")):
        if not exists(name):
            create(name, "none")
        for point in ("/", "/cases"):
            run("zfs", "set", "-u", f"mountpoint={point}", "canmount=on", name)
            refused("rotate", f"{key} {name} has canmount=on and mountpoint={point}")
        follow(foreseen_refusal())
        run("zfs", "set", "-u", "mountpoint=/elsewhere", "canmount=on", name)
    run("zfs", "set", "refquota=1M", ROOT)
    write(BASE, "large", os.urandom(MIB).hex())
    run("zfs", "rename", f"{BASE}@blank", f"{BASE}@small")
    follow(foreseen_refusal())  # there is no @blank
    follow(foreseen_refusal())  # which is larger than the root's refquota
    deep: dict[str, Any] = {"old-roots": f"{TOP}/a b/old"}
    follow(refusal("rotate", **deep))
    wipe("rotate", **deep)


@only_in_proof
def case_hints_of_a_leftover_clone_make_room_for_a_new_one() -> None:
    start()
    for command, left in ((0, True), (1, False)):
        clone(f"{BASE}@blank", NEW, "none")
        follow(refusal("rotate"), command, NAME=f"{TOP}/left")
        assert (exists(f"{TOP}/left"), exists(NEW)) == (left, False)
        if left:
            destroy(f"{TOP}/left")
    assert wipe("rotate").recovered == []
    live()
    # The fresh root waits, and the root that it replaces has another name.
    for command, fresh in ((0, False), (1, True)):
        clone(f"{BASE}@blank", NEW, "legacy")
        datasets.mark(NEW, "ephemeroot:of", value(ROOT, "guid"))
        write(ROOT, "work", "x")
        run("zfs", "rename", ROOT, f"{TOP}/elsewhere")
        follow(refusal("rotate"), command, NAME=f'"{TOP}/elsewhere"')
        assert content(ROOT).get("work") == (None if fresh else "x")
        if not fresh:
            destroy(NEW)
    wipe("rotate", now=NOW + 60)


@only_in_proof
def case_hints_of_an_old_root_let_it_be_deleted() -> None:
    start()
    destroy(f"{ROOT}@blank")
    first = str(wipe("rotate").retired)
    live()
    wipe("rotate", now=NOW + 60, request=first)
    live()
    old = f"{OLD}/{first}"
    own = next(name for name in names_of("snapshot", old))
    create(f"{old}/in it", "none")
    snapshot(f"{old}@not ours")
    run("zfs", "hold", "my tag", own)
    snapshot(f"{old}@ephemeroot-held")
    run("zfs", "hold", "another tag", f"{old}@ephemeroot-held")
    done = []
    with tempfile.TemporaryDirectory() as folder:
        mounts.attach_at(mounts.create("zfs", old, []), folder)
        assert follow(deletion(first)) == f"umount {folder}"
        assert not os.path.ismount(folder)
    while said := deletion(first):
        done.append(follow(said))
        assert len(done) < 9, done
    # Our own snapshot of the old root has the hold and the clone; promoting the clone moves it.
    assert sorted(done) == [
        f'zfs destroy "{old}/in it"',
        f'zfs destroy "{old}@not ours"',
        f'zfs promote "{ROOT}"',
        f'zfs release "another tag" {old}@ephemeroot-held',
    ], done
    assert not exists(old)
    # The promoted root has the snapshot now, and everything continues.
    run("zfs", "release", "my tag", f"{ROOT}@{own.partition('@')[2]}")
    last = str(wipe("rotate", now=NOW + 120).retired)
    live()
    assert deletion(last) == ""


@only_in_proof
def case_hints_make_room_for_a_rollback() -> None:
    start()
    run("zfs", "set", "ephemeroot:state=boot-complete", ROOT)
    write(ROOT, "large", os.urandom(4 * MIB).hex())
    snapshot(f"{ROOT}@large")
    run("zfs", "set", "refquota=16M", ROOT)
    run("zfs", "rollback", "-r", f"{ROOT}@blank")
    write(ROOT, "large", os.urandom(4 * MIB).hex())
    snapshot(f"{ROOT}@large")
    with mounted(ROOT) as top:
        (top / "large").unlink()
    run("zfs", "set", "refquota=2M", ROOT)
    follow(complaint(Refused, lambda: wipe("rollback", snapshot="large")))
    run("zfs", "rollback", f"{ROOT}@large")
    write(ROOT, "large", os.urandom(4 * MIB).hex())
    run("zfs", "set", "refreservation=8M", ROOT)
    run("zfs", "set", f"quota={int(value(TOP, 'used')) + MIB}", TOP)
    said = complaint(Refused, lambda: wipe("rollback"))
    assert "no space left for its refreservation" in said, said
    follow(said)
    wipe("rollback")
    assert content(ROOT) == {"release": "base"}


@only_in_proof
def case_hints_make_a_pool_usable() -> None:
    """Not imported, read-only, below another root, a key that is not loaded, another bootfs."""
    start()
    where = ("-N", "-d", str(IMAGE.parent))
    run("zpool", "export", POOL)
    assert follow(refusal("rollback"), 2) == "zpool import"
    follow(refusal("rollback"))
    assert follow(refusal("rollback", line="zfs:AUTO")).startswith("zpool set")
    wipe("rollback", line="zfs:AUTO")
    run("zpool", "export", POOL)
    run("zpool", "import", "-o", "readonly=on", *where, POOL)
    follow(refusal("rotate"))
    run("zpool", "export", POOL)
    run("zpool", "import", "-R", "/run/below", *where, POOL)
    follow(refusal("rotate"))
    wipe("rotate")
    at = f"{POOL}/locked"
    start(at=at)
    run("zfs", "unload-key", "-r", at)
    follow(refusal("rotate", root=f"{at}/the root"))
    wipe("rotate", root=f"{at}/the root")
    run("zfs", "unload-key", "-r", at)
    base = f"{at}/base@blank"
    follow(complaint(Refused, lambda: os.close(datasets.mount(base))))
    os.close(datasets.mount(base))


@only_in_proof
def case_hint_shortens_the_name_of_a_root() -> None:
    start()
    long = f"{TOP}/".ljust(245, "x")
    run("zfs", "rename", ROOT, long)
    follow(refusal("rotate", root=long), NAME=f'"{ROOT}"')
    assert foreseen("rotate") == []
    wipe("rotate")


@only_in_proof
def case_hints_make_a_store_that_can_be_mounted_and_written_to() -> None:
    start()
    store = f"{POOL}/a store"
    if exists(store):
        destroy(store)
    follow(mistake(lambda: volumes.require_mountable(store, [])))
    volumes.require_mountable(store, [])
    run("zfs", "set", "readonly=on", store)
    follow(mistake(lambda: volumes.require_writable(store)))
    volumes.require_writable(store)
    write(store, "file", "x")
    destroy(store)


@only_in_proof
def case_hint_loads_the_kernel_module() -> None:
    run("zpool", "export", POOL)
    run("modprobe", "-r", "zfs")
    follow(refusal("rollback"))
    if POOL not in run("zpool", "list", "-Ho", "name").split():  # the cache file can name it
        run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)
    start()
    wipe("rollback")


def case_quota_of_old_roots_is_kept_by_pruning() -> None:
    """The previous root does not fit: due old roots are deleted, or the hint frees space."""
    start()
    few: dict[str, Any] = {"keep-days": 0, "keep-last": 0}
    for number in range(2):
        write(ROOT, "large", os.urandom(4 * MIB).hex())
        wipe("rotate", now=NOW + number * DAY)
        live()
    write(ROOT, "large", os.urandom(4 * MIB).hex())
    run("zfs", "set", f"quota={int(value(OLD, 'used')) + MIB}", OLD)
    before = state()
    assert f"cannot rename {ROOT}" in refusal("rotate", now=NOW + 2 * DAY)
    assert state() == before
    outcome = wipe("rotate", now=NOW + 2 * DAY, **few)
    assert outcome.pruned[0] == "2027-01-16T08-00-00Z", outcome.pruned
    assert outcome.problems == []
    live()
    write(ROOT, "large", os.urandom(9 * MIB).hex())
    said = complaint(EphemerootError, lambda: wipe("rotate", now=NOW + 3 * DAY, **few))
    follow(said)
    follow(said, 1)
    wipe("rotate", now=NOW + 3 * DAY, **few)


def refusal(mode: str, **arguments: Any) -> str:
    """The message of a refused wipe; with an empty text the case fails."""
    said = complaint(EphemerootError, lambda: wipe(mode, **arguments))
    assert said
    return said


def mistake(action: Callable[[], None]) -> str:
    """The message of `check` about a volume; with an empty text the case fails."""
    try:
        action()
    except Mistake as error:
        return f"{error.reason}{HINT}{error.hint}"
    raise AssertionError


def foreseen_refusal() -> str:
    """The same for a rotation, which `ephemeroot check` reports as well."""
    said = refusal("rotate")
    assert foreseen("rotate") == [said]
    return said


def deletion(old: str) -> str:
    """The reason that prevents the deletion of an old root; empty once it is deleted."""
    with history() as opened:
        entry = opened.find(old)
        return complaint(EphemerootError, lambda: opened.delete(entry))
