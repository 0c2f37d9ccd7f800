"""Pruning on a real btrfs: due roots are deleted, and everything that is not proven stays."""

from __future__ import annotations

import os
import socket
import subprocess
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from btrfs_image import (
    DAY,
    NOON,
    Disk,
    Site,
    btrfsutil,
    fresh_disk,
    loop_device,
    mounted,
    subvolume_id,
)
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.wipers import changes, pruning
from ephemeroot.wipers.names import Name
from ephemeroot.wipers.pruning import Clock

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

OLD = [f"2026-09-0{day}T12-00-00Z" for day in range(1, 10)]


@pytest.fixture
def site(disk: Disk) -> Site:
    """Some very old roots, a first one that is kept, and a root from yesterday."""
    site = disk.site().with_root()
    site.settings["keep-last"] = 0
    site.boots([NOON - 2 * DAY, NOON - DAY])
    site.retire(*OLD[:4])
    return site


YOUNG = {"2026-11-21T12-00-00Z.keep", "2026-11-22T12-00-00Z", "2026-11-23T12-00-00Z"}


def test_deletes_due_roots_oldest_first(site: Site) -> None:
    outcome = site.rotate()
    assert outcome.pruned == OLD[:4]
    assert outcome.problems == []
    assert set(site.old()) == YOUNG
    assert set(outcome.kept) == YOUNG
    assert site.rotate(NOON + 1).pruned == []


def test_keep_last_takes_precedence_over_age(site: Site) -> None:
    site.settings["keep-last"] = 5
    outcome = site.rotate()
    left = set(site.old())
    # By name the newest are two recent and three old roots; by creation other ones.
    assert set(OLD[1:4]) <= left
    assert left >= YOUNG
    assert outcome.pruned == []


def test_keep_days_and_keep_last_of_zero_delete_every_old_root(site: Site) -> None:
    """A kiosk: only the first root stays, as the copy of the original system."""
    site.settings |= {"keep-days": 0}
    site.rotate()
    assert site.old() == ["2026-11-21T12-00-00Z.keep"]


def test_unused_roots_are_deleted_by_age_and_take_no_place_in_keep_last(disk: Disk) -> None:
    site = disk.site().with_root()
    site.settings["keep-last"] = 2
    site.boots([NOON - 40 * DAY])
    unused = [f"2026-10-1{n}T00-00-00Z.unused" for n in range(5)]
    complete = ["2026-10-01T00-00-00Z", "2026-10-02T00-00-00Z"]
    site.retire(*complete, *unused)
    with site.history() as history:
        clock = Clock(NOON, synchronised=True)
        result = pruning.by_settings(history, clock).run(log=site.log.append)
    assert result.pruned == unused
    assert site.old() == [*complete, "2026-10-14T12-00-00Z.keep"]


def test_pinned_roots_stay(site: Site) -> None:
    assert site.rotate(pinned=(OLD[1],)).pruned == [OLD[0], *OLD[2:4]]
    assert site.rotate(NOON + 1, pinned=()).pruned == [OLD[1]]


def test_deletes_nested_subvolumes_first_at_any_depth(site: Site) -> None:
    victim = site.old_roots / OLD[0]
    path = victim
    for name in ("a b", "new\nline", "*", "-rf", "x" * 255, os.fsdecode(b"\xff\xfe")):
        path /= name
        btrfsutil.create_subvolume(str(path))
        (path / "plain/dir").mkdir(parents=True)
        btrfsutil.create_subvolume(str(path / "plain/dir/beside"))
        btrfsutil.set_subvolume_read_only(str(path / "plain/dir/beside"), True)
    inner = [victim / "a b/new\nline/*", victim / "a b/new\nline", victim]
    for holder in inner:
        btrfsutil.set_subvolume_read_only(str(holder), True)
    outcome = site.rotate()
    assert outcome.problems == []
    assert set(site.old()) == YOUNG


# Never deleted


def test_deletes_only_proven_old_roots(site: Site) -> None:
    """Anything that is not a subvolume of Ephemeroot stays unchanged, however old."""
    old = site.old_roots
    (old / "2020-01-01T00-00-00Z").mkdir()
    (old / "2020-01-01T00-00-00Z/file").write_text("a plain directory")
    (old / "2020-01-01T00-00-01Z").write_text("a file")
    (old / "2020-01-01T00-00-02Z").symlink_to("..")
    (old / "2020-01-01T00-00-03Z").symlink_to(OLD[0])
    with socket.socket(socket.AF_UNIX) as sock:
        fd = os.open(old, os.O_RDONLY)  # the path itself is too long for a socket
        sock.bind(f"/proc/self/fd/{fd}/2020-01-01T00-00-04Z")
        os.close(fd)
    os.mkfifo(old / "2020-01-01T00-00-05Z")
    foreign = ["notes", "2024-3-7_09:05:01", "2020-01-01T00-00-06Z.mine", "2020-01-01", "*", "-rf"]
    for name in foreign:
        btrfsutil.create_subvolume(str(old / name))
    for path in old.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    os.utime(old, (0, 0))

    outcome = site.rotate()

    assert outcome.pruned == OLD[:4]
    assert outcome.problems == []
    assert set(site.old()) == {*YOUNG, *foreign, *(f"2020-01-01T00-00-0{n}Z" for n in range(6))}
    assert (old / "2020-01-01T00-00-00Z/file").read_text() == "a plain directory"
    with site.history() as history:
        kinds = {entry.text: entry.kind for entry in history.entries()}
    assert kinds["2024-3-7_09:05:01"] == "recipe"
    assert {kinds[name] for name in foreign} == {"foreign", "recipe"}
    assert {kinds[f"2020-01-01T00-00-0{n}Z"] for n in range(6)} == {"foreign"}
    assert kinds["2026-11-22T12-00-00Z"] == "retired"


def test_a_directory_with_the_inode_number_of_a_subvolume_is_not_deleted(tmp_path: Path) -> None:
    """The number of a subvolume in a listing is its ID, and inodes have the same numbers."""
    with fresh_disk(tmp_path, 128) as disk:
        site = disk.site()
        site.old_roots.mkdir()
        plain = site.old_roots / "2026-11-01T00-00-00Z"
        plain.mkdir()
        number = plain.stat().st_ino
        subvolumes = [f"2026-10-01T00-00-0{n}Z" for n in range(6)]
        site.retire(*subvolumes)
        assert number in [subvolume_id(site.old_roots / name) for name in subvolumes]
        with site.history() as history:
            kinds = {entry.text: entry.kind for entry in history.entries()}
        assert kinds.pop(plain.name) == "foreign"
        assert set(kinds.values()) == {"retired"}


def test_a_plain_directory_takes_no_place_in_keep_last(site: Site) -> None:
    site.settings["keep-last"] = 2
    for number in range(5):
        (site.old_roots / f"2026-11-23T13-00-0{number}Z").mkdir()
    site.rotate()
    assert {"2026-11-22T12-00-00Z", "2026-11-23T12-00-00Z"} <= set(site.old())


@pytest.mark.parametrize("what", ["root", "nested", "directory", "mount point", "elsewhere"])
def test_never_deletes_a_mounted_root(site: Site, tmp_path: Path, what: str) -> None:
    victim = site.old_roots / OLD[1]
    btrfsutil.create_subvolume(str(victim / "nested"))
    (victim / "dir").mkdir()
    where = tmp_path / "m"
    where.mkdir()
    inside = f"{site.name}/old_roots/{OLD[1]}"
    loop = site.disk.loop
    command: list[object]
    if what == "root":
        command = ["mount", "-o", f"subvolid={subvolume_id(victim)}", loop, where]
    elif what == "nested":
        command = ["mount", "-o", f"subvol={inside}/nested", loop, where]
    elif what == "directory":
        command = ["mount", "--bind", victim / "dir", where]
    elif what == "mount point":
        where = victim / "dir"
        command = ["mount", "-t", "tmpfs", "none", where]
    else:
        command = ["mount", "-o", f"subvol={inside}", loop, where]
    subprocess.run(list(map(str, command)), check=True)
    try:
        outcome = site.rotate()
    finally:
        subprocess.run(["umount", where], check=True)
    (problem,) = outcome.problems
    assert "is mounted" in problem
    assert OLD[1] in problem
    assert outcome.pruned == [OLD[0], *OLD[2:4]]
    assert (victim / "nested").exists()
    # The next run deletes it.
    assert site.rotate(NOON + 1).pruned == [OLD[1]]


@pytest.mark.parametrize("nested", [False, True])
def test_never_deletes_the_default_subvolume(site: Site, nested: bool) -> None:
    victim = site.old_roots / OLD[1]
    btrfsutil.create_subvolume(str(victim / "nested"))
    btrfsutil.create_subvolume(str(victim / "other"))
    btrfsutil.set_default_subvolume(str(victim / "nested" if nested else victim))
    try:
        (problem,) = site.rotate().problems
    finally:
        btrfsutil.set_default_subvolume(str(site.disk.top), 5)
    assert "default subvolume" in problem
    assert (victim / "nested").exists()
    assert (victim / "other").exists()
    assert site.rotate(NOON + 1).pruned == [OLD[1]]


def test_a_root_that_cannot_be_deleted_does_not_stop_the_others(site: Site) -> None:
    """An active swap file prevents the deletion of its subvolume."""
    victim = site.old_roots / OLD[0]
    swap = victim / "swap"
    swap.touch(0o600)
    subprocess.run(["chattr", "+C", swap], check=True)
    with swap.open("wb") as file:
        file.write(bytes(1 << 20))
    subprocess.run(["mkswap", "-q", swap], check=True)
    subprocess.run(["swapon", swap], check=True)
    try:
        outcome = site.rotate()
    finally:
        subprocess.run(["swapoff", swap], check=True)
    (problem,) = outcome.problems
    assert OLD[0] in problem
    assert outcome.pruned == OLD[1:4]
    assert site.rotate(NOON + 1).pruned == [OLD[0]]


def test_does_not_delete_a_name_that_now_means_another_subvolume(site: Site) -> None:
    with site.history() as history:
        deletion = changes.delete(history, OLD[0])
        (site.old_roots / OLD[0]).rename(site.path / "away")
        btrfsutil.create_subvolume(str(site.old_roots / OLD[0]))
        with pytest.raises(EphemerootError, match="another subvolume than before"):
            deletion.execute()
    assert (site.old_roots / OLD[0]).exists()
    assert (site.path / "away").exists()


def test_does_not_follow_a_symlink_in_place_of_a_due_root(site: Site) -> None:
    btrfsutil.create_subvolume(str(site.path / "precious"))
    with site.history() as history:
        deletion = changes.delete(history, OLD[0])
        (site.old_roots / OLD[0]).rename(site.path / "away")
        (site.old_roots / OLD[0]).symlink_to("../precious")
        with pytest.raises(EphemerootError, match="not a subvolume"):
            deletion.execute()
    assert (site.path / "precious").exists()


# Clocks


def prune(site: Site, now: float, *, synchronised: bool) -> list[str]:
    with site.history() as history:
        clock = Clock(now, synchronised=synchronised)
        return pruning.by_settings(history, clock).run(log=site.log.append).pruned


def test_an_untrusted_clock_prunes_nothing_and_marks_the_name(site: Site) -> None:
    for now in (12.0, NOON + 365 * DAY, 4070908800.0):
        outcome = site.rotate(now)
        assert outcome.pruned == []
        assert outcome.retired is not None
        assert ".unsynced" in outcome.retired


def test_a_synchronised_clock_prunes_after_any_gap(site: Site) -> None:
    gone = prune(site, NOON + 365 * DAY, synchronised=True)
    assert sorted(gone) == [*OLD[:4], "2026-11-22T12-00-00Z"]


def test_the_time_of_a_synchronised_clock_is_trusted_at_the_next_boot(site: Site) -> None:
    site.settings["keep-last"] = 9
    assert prune(site, NOON + 50 * DAY, synchronised=True) == []
    site.settings["keep-last"] = 0
    outcome = site.rotate(12.0)
    assert sorted(outcome.pruned) == [*OLD[:4], "2026-11-22T12-00-00Z"]


def test_wrong_names_are_dated_once_a_clock_is_right(site: Site) -> None:
    """Then they age like any other name, and their order stays."""
    site.settings["keep-last"] = 0
    site.boots([12.0, 13.0])
    site.retire("2099-01-01T00-00-00Z")
    wrong = ["1970-01-01T00-00-12Z.unsynced", "1970-01-01T00-00-13Z.unsynced"]
    assert set(wrong) <= set(site.old())
    ids = [subvolume_id(site.old_roots / name) for name in wrong]
    now = NOON + 5 * DAY
    assert prune(site, now, synchronised=True) == OLD[:4]
    dated = [str(Name(now)), str(Name(now, 2)), str(Name(now, 3))]
    assert set(site.old()) == {"2026-11-21T12-00-00Z.keep", "2026-11-22T12-00-00Z", *dated}
    assert [subvolume_id(site.old_roots / name) for name in dated[:2]] == ids
    assert prune(site, now + 29 * DAY, synchronised=True) == ["2026-11-22T12-00-00Z"]
    assert prune(site, now + 31 * DAY, synchronised=True) == dated


def test_without_a_synchronised_clock_no_name_changes(site: Site) -> None:
    site.retire("1970-01-01T00-00-12Z.unsynced", "2099-01-01T00-00-00Z")
    site.rotate()
    assert {"1970-01-01T00-00-12Z.unsynced", "2099-01-01T00-00-00Z"} <= set(site.old())


# Time and space


def test_pruning_stops_after_its_time_and_continues_later(disk: Disk) -> None:
    site = disk.site().with_root()
    site.settings["keep-last"] = 0
    site.boots([NOON - DAY])
    names = [f"2026-08-01T0{n // 60}-{n % 60:02}-00Z" for n in range(300)]
    site.retire(*names, nested=1)
    # How much is deleted depends on the machine: the clock advances with each deletion, by lines of
    # the log.
    lines = 0

    def clock() -> float:
        return lines / 10

    def log(line: str) -> None:
        nonlocal lines
        lines += line.startswith("delete old root")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "time", SimpleNamespace(monotonic=clock))
        outcome = site.rotate(NOON, budget=5.0, log=log)
    assert outcome.problems == []
    gone = outcome.pruned
    assert len(gone) == 50
    assert gone == names[: len(gone)]
    assert site.rotate(NOON + 5, budget=0.0).pruned == []
    assert prune(site, NOON + 6, synchronised=True) == names[len(gone) :]


def fill(path: Path) -> None:
    """Write until the disk is full: first its data, then its metadata."""
    path.mkdir()
    with (path / "data").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        write_for_ever(file)
    with pytest.raises(OSError, match="space"):
        create(path, 1 << 30)


def write_for_ever(file: FileIO) -> None:
    while True:
        file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())


def create(path: Path, count: int) -> None:
    """Create files that use 4 KB of metadata each."""
    for number in range(count):
        fd = os.open(path / f"{number}", os.O_WRONLY | os.O_CREAT)
        try:
            os.setxattr(fd, "user.x", os.urandom(3800))
        finally:
            os.close(fd)


def big_root(site: Site, name: str, megabytes: int) -> None:
    site.retire(name)
    with (site.old_roots / name / "big").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))


def test_min_free_deletes_the_oldest_early_and_no_more_than_needed(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 256) as disk:
        site = disk.site().with_root()
        site.boots([NOON - DAY])
        young = [f"2026-11-2{n}T00-00-00Z" for n in range(4)]
        for name in young:
            big_root(site, name, 20)
        disk.sync()
        status = os.statvfs(disk.top)
        free = status.f_bavail * status.f_frsize
        site.settings |= {"keep-last": 1, "min-free": str(free + (30 << 20))}
        outcome = site.rotate(NOON)
        assert outcome.pruned == young[:2]
        assert outcome.problems == []


def test_min_free_never_deletes_roots_that_must_stay(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 256) as disk:
        site = disk.site().with_root()
        site.boots([NOON - DAY * n for n in range(9, 3, -1)])
        site.settings |= {"keep-last": 2, "min-free": "100%"}
        outcome = site.rotate(NOON)
        assert len(outcome.pruned) == 4
        assert site.old() == [
            "2026-11-14T12-00-00Z.keep", "2026-11-19T12-00-00Z", "2026-11-23T12-00-00Z",
        ]  # fmt: skip


def test_a_full_disk_gets_room_by_deleting_due_roots(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 128) as disk:
        site = disk.site().with_root().with_base()
        site.boots([NOON - DAY])
        site.settings["keep-last"] = 0
        site.retire(OLD[0])
        create(site.old_roots / OLD[0], 2500)
        fill(site.root / "full")
        outcome = site.rotate()
        assert any("no space" in line for line in site.log)
        assert outcome.pruned == [OLD[0]]
        assert outcome.retired == "2026-11-23T12-00-00Z"
        assert (site.root / "origin").exists()


def test_a_full_disk_without_due_roots_keeps_the_root(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 128) as disk:
        site = disk.site().with_root().with_base()
        site.boots([NOON - DAY])
        fill(site.root / "full")
        before = subvolume_id(site.root)
        with pytest.raises(EphemerootError, match="the root is kept"):
            site.rotate()
        assert subvolume_id(site.root) == before
        assert site.old() == ["2026-11-22T12-00-00Z.keep"]
        assert site.strays() == []


# On request of the administrator


def test_keeps_and_unkeeps_an_old_root_on_request(site: Site) -> None:
    with site.history() as history:
        change = changes.keep(history, OLD[0])
        assert change is not None
        assert change.describe().startswith(f"rename old root {OLD[0]} to {OLD[0]}.keep")
        assert change.execute() == f"{OLD[0]}.keep"
        assert changes.keep(history, f"{OLD[0]}.keep") is None
    assert site.rotate().pruned == OLD[1:4]
    with site.history() as history:
        change = changes.keep(history, OLD[0], wanted=False)
        assert change is not None
        change.execute()
    assert site.rotate(NOON + 1).pruned == [OLD[0]]


def test_deletes_an_old_root_on_request(site: Site) -> None:
    with site.history() as history:
        deletion = changes.delete(history, OLD[0])
        assert deletion.describe() == f"delete old root {OLD[0]} (by hand)"
        assert (site.old_roots / OLD[0]).exists()
        deletion.execute()
        assert not (site.old_roots / OLD[0]).exists()
        with pytest.raises(EphemerootError):
            deletion.execute()
        with pytest.raises(Misconfigured, match="there is no old root"):
            changes.delete(history, OLD[0])
        with pytest.raises(EphemerootError, match=r"marked \.keep"):
            changes.delete(history, "2026-11-21T12-00-00Z").execute()


def test_refuses_to_delete_or_keep_foreign_names(site: Site) -> None:
    btrfsutil.create_subvolume(str(site.old_roots / "notes"))
    with site.history() as history:
        with pytest.raises(EphemerootError, match="not retired by ephemeroot"):
            changes.delete(history, "notes").execute()
        with pytest.raises(EphemerootError, match="never pruned"):
            changes.keep(history, "notes")
    assert (site.old_roots / "notes").exists()


def test_deletes_roots_of_the_shell_recipe_only_on_request(site: Site) -> None:
    recipe = ["2024-3-7_09:05:01", "2024-11-30_23:59:59"]
    for name in recipe:
        btrfsutil.create_subvolume(str(site.old_roots / name))
        btrfsutil.create_subvolume(str(site.old_roots / name / "nested"))
    (site.old_roots / "2024-3-8_09:05:01").mkdir()
    site.rotate()
    assert set(recipe) <= set(site.old())
    with site.history() as history:
        for deletion in changes.delete_recipe(history):
            deletion.execute()
    assert not set(recipe) & set(site.old())
    assert "2024-3-8_09:05:01" in site.old()


def test_the_history_has_states_and_places(site: Site) -> None:
    site.rotate()
    site.rotate(NOON + 1)
    with site.history() as history:
        states = {entry.label: history.state(entry) for entry in history.retired()}
        entry = history.find("2026-11-22T12-00-00Z")
        assert history.path(entry) == f"{site.name}/old_roots/2026-11-22T12-00-00Z"
    assert states["2026-11-21T12-00-00Z.keep"] == ""
    assert states["2026-11-22T12-00-00Z"] == "boot-complete"
    assert states["2026-11-23T12-00-01Z.unused"] == "new"


def test_a_history_without_old_roots_is_empty(disk: Disk) -> None:
    site = disk.site().with_root()
    with site.history() as history:
        assert history.entries() == []
        clock = Clock(NOON, synchronised=True)
        assert pruning.by_settings(history, clock).run(log=site.log.append).pruned == []
    assert not site.old_roots.exists()


def test_prunes_a_root_that_was_retired_in_place(tmp_path: Path) -> None:
    """``btrfs receive`` made it, so it was never moved."""
    with fresh_disk(tmp_path, 128) as disk:
        site = disk.site().with_root()
        site.settings["keep-last"] = 0
        site.boots([NOON - 60 * DAY])
        btrfsutil.create_snapshot(str(site.root), str(site.path / "sent"), read_only=True)
        disk.sync()
        send = ["btrfs", "-q", "send", str(site.path / "sent")]
        stream = subprocess.run(send, check=True, capture_output=True).stdout
        for name in ("sent", "root"):
            btrfsutil.delete_subvolume(str(site.path / name))
        subprocess.run(["btrfs", "-q", "receive", site.path], input=stream, check=True)
        (site.path / "sent").rename(site.root)
        site.rotate(NOON - 50 * DAY, synchronised=True)
        assert len(site.strays()) == 1
        site.live()
        outcome = site.rotate(NOON, synchronised=True)
        assert outcome.pruned == ["2026-10-04T12-00-00Z"]
        assert outcome.problems == []
        assert site.strays() == []


def test_the_loop_device_can_be_detached_afterwards(tmp_path: Path) -> None:
    """After a run the filesystem can be unmounted: no descriptor and no mount remains."""
    with loop_device(tmp_path / "image", 128) as loop:
        subprocess.run(["mkfs.btrfs", "-q", loop], check=True, capture_output=True)
        private = tmp_path / "private"
        private.mkdir()
        with mounted(loop, tmp_path / "top") as top:
            Site(Disk(loop, top, private), "").with_root().rotate()
        # An exclusive open fails while the device is mounted anywhere.
        os.close(os.open(loop, os.O_RDWR | os.O_EXCL))


@pytest.mark.parametrize("most", [None, 5])
def test_limits_the_old_roots_of_a_machine_whose_clock_is_always_1970(
    site: Site, most: int | None
) -> None:
    site.settings |= {"keep-days": 8, "keep-last": 2, "keep-at-most": most}
    site.boots([10.0] * 20)
    left = [name for name in site.old() if name.endswith(".unsynced")]
    assert len(left) == (most or 8)


def test_limits_the_old_roots_of_a_machine_whose_clock_jumps(site: Site) -> None:

    site.settings |= {"keep-days": 30, "keep-last": 2, "keep-at-most": 6}
    site.boots([NOON + (n % 2) * 400 * DAY for n in range(16)])
    left = [name for name in site.old() if not name.endswith(".keep")]
    assert 6 <= len(left) <= 8, "keep-last by name and by serial number beside the newest six"
