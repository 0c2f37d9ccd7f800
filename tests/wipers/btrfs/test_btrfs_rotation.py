"""Rotation on a real btrfs: what a wipe creates, keeps, and refuses to change."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import (
    NOON,
    Disk,
    Site,
    btrfsutil,
    listing,
    loop_device,
    mkfs,
    mounted,
    refused,
    subvolume_id,
    uuid,
)
from complete_boot import mark_boot_complete
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mountinfo
from ephemeroot.wipers import retention
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.btrfs.history import SubvolumeHistory
from ephemeroot.wipers.oldroot import OldRoot

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


def test_an_empty_root_gets_a_skeleton(site: Site) -> None:
    outcome = site.rotate()
    modes = {e.name: stat.S_IMODE(e.stat().st_mode) for e in site.root.iterdir() if e.is_dir()}
    assert modes.items() >= {
        ("proc", 0o555), ("sys", 0o555), ("dev", 0o755), ("run", 0o755), ("tmp", 0o1777),
        ("etc", 0o755), ("var", 0o755), ("usr", 0o755), ("root", 0o700),
    }  # fmt: skip
    assert os.readlink(site.root / "bin") == "usr/bin"
    assert os.readlink(site.root / "sbin") == "usr/sbin"
    assert os.readlink(site.root / "lib") == "usr/lib"
    assert not (site.root / "file").exists()
    assert outcome.retired == "2026-11-23T12-00-00Z.keep"
    assert (site.old_roots / outcome.retired / "file").read_text() == "hello"
    assert outcome.problems == []
    assert site.strays() == []


def test_a_fresh_root_is_a_writable_snapshot_of_the_base(site: Site) -> None:
    site.with_base("from the base")
    btrfsutil.set_subvolume_read_only(str(site.path / "base"), True)
    site.rotate()
    assert (site.root / "origin").read_text() == "from the base"
    assert not btrfsutil.get_subvolume_read_only(str(site.root))
    (site.root / "origin").write_text("changed")
    assert (site.path / "base/origin").read_text() == "from the base"


def test_the_result_identifies_the_mounted_root(site: Site, tmp_path: Path) -> None:
    wiper = Btrfs(site.settings)
    before = site.rotate().fresh
    after = site.rotate().fresh
    assert after["subvolume"] == site.subvolume
    assert after["subvolume-uuid"] == uuid(site.root)
    with mounted(site.disk.loop, tmp_path / "root", f"subvol={site.subvolume}") as root:
        assert wiper.is_fresh(str(root), after)
        assert not wiper.is_fresh(str(root), before)
        assert not wiper.is_fresh(str(root), after | {"uuid": before["subvolume-uuid"]})
        (root / "directory").mkdir()
        assert not wiper.is_fresh(str(root / "directory"), after)
    assert not wiper.is_fresh("/proc", after)


def test_the_fresh_root_is_proven_before_it_gets_its_name(site: Site) -> None:
    site.with_base()
    seen: list[tuple[str, bool, str]] = []

    def prove(path: str) -> None:
        origin = Path(path, "origin").read_text()
        seen.append((origin, (site.root / "file").exists(), os.path.basename(path)))

    site.rotate(prove=prove)
    ((origin, root_was_there, name),) = seen
    assert (origin, root_was_there) == ("base", True)
    assert name.startswith(".root.ephemeroot.2026-11-23T12-00-00Z")


def test_a_fresh_root_that_fails_its_proof_leaves_nothing(site: Site) -> None:
    site.with_base()

    def prove(path: str) -> None:
        raise Refused(f"{path} has no init", "install one")

    refused(site, "no init", prove=prove)
    assert site.strays() == []
    assert (site.root / "file").read_text() == "hello"


def test_the_previous_root_is_available_for_seeding_before_it_is_moved(site: Site) -> None:
    shown: list[tuple[str, str, bool]] = []

    def previous(path: str, complete: bool) -> None:
        shown.append((Path(path, "file").read_text(), (site.root / "file").read_text(), complete))

    site.rotate(previous=previous)
    assert shown == [("hello", "hello", True)]


def test_the_last_boot_complete_root_is_available_for_seeding(site: Site) -> None:
    shown: list[tuple[str, bool]] = []
    site.boots([NOON])
    site.rotate(NOON + 60)
    site.rotate(
        NOON + 120,
        previous=lambda path, complete: shown.append((Path(path, "file").read_text(), complete)),
    )
    assert shown == [(f"made by the boot at {NOON}", True)]


def test_an_error_while_seeding_stops_the_wipe(site: Site) -> None:
    def previous(path: str, complete: bool) -> None:
        raise Refused("too much to carry over", "ephemeroot adopt")

    refused(site, "too much", previous=previous)
    assert site.strays() == []


def test_creates_a_root_where_there_is_none(disk: Disk) -> None:
    site = disk.site().with_base()
    outcome = site.rotate()
    assert (site.root / "origin").exists()
    assert outcome.retired is None
    assert site.old() == []
    site.live()
    assert site.rotate().retired == "2026-11-23T12-00-00Z.keep"


def test_only_the_first_boot_complete_root_is_kept_without_limit(disk: Disk) -> None:
    site = disk.site().with_root()
    site.rotate(NOON)
    site.rotate(NOON + 1)
    site.live()
    site.rotate(NOON + 2)
    assert site.old() == [
        "2026-11-23T12-00-00Z.keep",
        "2026-11-23T12-00-01Z.unused",
        "2026-11-23T12-00-02Z",
    ]


def test_no_later_root_replaces_a_deleted_first_root(site: Site) -> None:
    site.boots([NOON])
    btrfsutil.delete_subvolume(str(site.old_roots / "2026-11-23T12-00-00Z.keep"))
    assert site.rotate(NOON + 1).retired == "2026-11-23T12-00-01Z"


def test_a_root_without_a_complete_boot_is_unused(disk: Disk) -> None:
    site = disk.site().with_root()
    assert site.rotate(NOON).retired == "2026-11-23T12-00-00Z.keep"
    assert site.rotate(NOON + 1).retired == "2026-11-23T12-00-01Z.unused"
    site.live()
    assert site.rotate(NOON + 2).retired == "2026-11-23T12-00-02Z"


def test_reads_a_mark_of_the_first_version(disk: Disk) -> None:
    """That version wrote ``lived`` for a root whose boot was complete."""
    site = disk.site().with_root()
    site.rotate(NOON)
    site.live()
    name = "trusted.ephemeroot.state"
    word, _, identity = os.getxattr(site.root, name).partition(b" ")
    assert word == b"boot-complete"
    os.setxattr(site.root, name, b"lived " + identity)
    assert site.rotate(NOON + 1).retired == "2026-11-23T12-00-01Z"


def test_a_snapshot_does_not_inherit_the_mark(site: Site) -> None:
    """For a base made from a fresh root: the mark that was copied says nothing about the copy."""
    site.rotate()
    btrfsutil.create_snapshot(str(site.root), str(site.path / "copy"))
    site.root.rename(site.path / "away")
    (site.path / "copy").rename(site.root)
    assert not mark_boot_complete(Btrfs(site.settings), site.root)
    outcome = site.rotate(NOON + 5)
    assert outcome.retired == "2026-11-23T12-00-05Z"


def test_a_directory_that_was_not_wiped_has_no_mark(site: Site) -> None:
    wiper = Btrfs(site.settings)
    assert not mark_boot_complete(wiper, site.root)
    assert not mark_boot_complete(wiper, site.path)


def test_two_rotations_within_a_second_get_two_names(site: Site) -> None:
    site.boots([NOON, NOON + 0.2, NOON + 0.9])
    assert site.old() == [
        "2026-11-23T12-00-00Z.2",
        "2026-11-23T12-00-00Z.3",
        "2026-11-23T12-00-00Z.keep",
    ]


@pytest.mark.parametrize("mtime", [0, NOON, 4070908800], ids=["1970", "unchanged", "2099"])
def test_the_mtime_of_a_root_is_ignored(site: Site, mtime: int) -> None:
    os.utime(site.root, (mtime, mtime))
    assert site.rotate().retired == "2026-11-23T12-00-00Z.keep"
    assert not (site.root / "file").exists()


def test_a_root_replaced_by_the_administrator_is_rotated(site: Site) -> None:
    site.boots([NOON])
    site.root.rename(site.path / "away")
    site.with_root("restored from a backup")
    outcome = site.rotate(NOON + 1)
    assert outcome.retired is not None
    old = site.old_roots / outcome.retired / "file"
    assert old.read_text() == "restored from a backup"


# Nested subvolumes of the base


# Read-only roots and received ones


# The default subvolume


@pytest.fixture
def default_restored(disk: Disk) -> Iterator[None]:
    yield
    btrfsutil.set_default_subvolume(str(disk.top), 5)


@pytest.mark.usefixtures("default_restored")
def test_the_default_subvolume_follows_the_root_on_request(site: Site) -> None:
    site.settings["set-default"] = True
    btrfsutil.set_default_subvolume(str(site.root))
    for now in (NOON, NOON + 1):
        assert site.rotate(now).problems == []
        assert btrfsutil.get_default_subvolume(str(site.disk.top)) == subvolume_id(site.root)


@pytest.mark.usefixtures("default_restored")
def test_another_default_subvolume_does_not_matter(site: Site) -> None:
    other = site.path / "other"
    btrfsutil.create_subvolume(str(other))
    btrfsutil.set_default_subvolume(str(other))
    site.settings["set-default"] = True
    assert site.rotate().retired == "2026-11-23T12-00-00Z.keep"
    assert (site.old_roots / "2026-11-23T12-00-00Z.keep/file").exists()
    assert btrfsutil.get_default_subvolume(str(site.disk.top)) == subvolume_id(other)


def test_old_roots_may_be_a_subvolume(site: Site) -> None:
    btrfsutil.create_subvolume(str(site.old_roots))
    site.boots([NOON, NOON + 1])
    assert site.old() == ["2026-11-23T12-00-00Z.keep", "2026-11-23T12-00-01Z"]
    with site.history() as history:
        assert [entry.kind for entry in history.entries()] == ["retired", "retired"]


def test_creates_old_roots_for_root_only(site: Site) -> None:
    site.settings["old-roots"] = f"{site.name}/deep/er/old"
    site.rotate()
    for path in ("deep", "deep/er", "deep/er/old"):
        assert stat.S_IMODE((site.path / path).stat().st_mode) == 0o700


def test_refuses_two_runs_at_once(site: Site) -> None:
    site.rotate()
    with site.history():
        before = listing(site.path)
        with pytest.raises(EphemerootError) as locked:
            site.rotate()
        assert locked.value.exit_code == 3
    assert listing(site.path) == before


# Requests


def test_boots_an_old_root_on_request(site: Site) -> None:
    site.with_base()
    site.boots([NOON, NOON + 1])
    outcome = site.rotate(NOON + 2, request="2026-11-23T12-00-00Z.keep")
    assert (site.root / "file").read_text() == "hello"
    assert not (site.root / "origin").exists()
    assert outcome.retired == "2026-11-23T12-00-02Z"
    assert (site.old_roots / "2026-11-23T12-00-00Z.keep/file").read_text() == "hello"
    # The copy is an ordinary fresh root.
    assert site.rotate(NOON + 3).retired == "2026-11-23T12-00-03Z.unused"


def test_a_request_may_omit_the_flags_of_a_name(site: Site) -> None:
    site.boots([NOON])
    site.rotate(NOON + 1, request="2026-11-23T12-00-00Z")
    assert (site.root / "file").read_text() == "hello"


@pytest.mark.parametrize(
    "request_", ["2020-01-01T00-00-00Z", "nonsense", "", "..", "../root", "plain", "link"]
)
def test_a_request_for_an_unknown_root_changes_nothing(site: Site, request_: str) -> None:
    site.boots([NOON])
    (site.old_roots / "plain").mkdir()
    (site.old_roots / "link").symlink_to("2026-11-23T12-00-00Z.keep")
    refused(site, "cannot boot the old root", request=request_)


# Names and inheritance


def test_a_disk_that_fails_after_the_exchange_does_not_fail_the_wipe(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wipe has succeeded: a failure would be reported as a kept root."""

    def broken(self: SubvolumeHistory) -> list[OldRoot]:
        if (site.root / "file").exists():
            return entries(self)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    entries = SubvolumeHistory.entries
    monkeypatch.setattr(SubvolumeHistory, "entries", broken)
    outcome = site.rotate()
    assert outcome.fresh["subvolume"] == site.subvolume
    assert [p for p in outcome.problems if "Input/output error" in p]


# Devices


def test_a_filesystem_on_several_devices(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    with (
        loop_device(tmp_path / "one", 128) as one,
        loop_device(tmp_path / "two", 128) as two,
    ):
        mkfs(one, two, options=("-d", "raid1", "-m", "raid1"))
        subprocess.run(["btrfs", "device", "scan", "--forget", one], check=False)
        subprocess.run(["btrfs", "device", "scan", "--forget", two], check=False)
        for device in (two, one):
            with mounted(one, tmp_path / "top", f"subvolid=5,device={two}") as top:
                site = Site(Disk(device, top, tmp_path / "private"), "")
                if not site.root.exists():
                    site.with_root()
            subprocess.run(["btrfs", "device", "scan", "--forget", one], check=False)
            subprocess.run(["btrfs", "device", "scan", "--forget", two], check=False)
            outcome = Btrfs(site.settings).wipe(site.boot())
            assert outcome.problems == []


def test_uses_mount_options_and_reports_wrong_ones(site: Site) -> None:
    site.settings["mount-options"] = ["noatime", "nonsense=1"]
    with pytest.raises(Refused, match="nonsense"):
        site.rotate()
    site.settings["mount-options"] = ["noatime", "x-systemd.device-timeout=1"]
    site.rotate()


def test_a_read_only_mount_of_the_same_filesystem_does_not_prevent_the_wipe(
    site: Site, tmp_path: Path
) -> None:
    """The store may be on the same filesystem, mounted before the wipe."""
    btrfsutil.create_subvolume(str(site.path / "store"))
    with mounted(site.disk.loop, tmp_path / "store", f"ro,subvol={site.name}/store"):
        assert site.rotate().problems == []


def test_nothing_stays_mounted(site: Site) -> None:
    before = len(mountinfo.mounts())
    site.rotate()
    with pytest.raises(Refused):
        site.rotate(request="nonsense")
    assert len(mountinfo.mounts()) == before


def test_unmounts_what_a_killed_run_left_mounted(site: Site) -> None:
    top = site.disk.private / "top"
    top.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", top], check=True)
    site.rotate()
    assert not top.is_mount()


# Dry run, description, validation


def test_a_dry_run_prints_the_steps_and_does_nothing(site: Site) -> None:
    site.with_base()
    site.boots([NOON])
    site.retire("2020-01-01T00-00-00Z", "2020-01-01T00-00-01Z")
    site.settings["keep-last"] = 0
    before = listing(site.path)
    site.log.clear()
    site.rotate(NOON + 1, dry_run=True)
    said = list(site.log)
    assert listing(site.path) == before
    site.log.clear()
    outcome = site.rotate(NOON + 1)
    assert outcome.pruned == ["2020-01-01T00-00-00Z", "2020-01-01T00-00-01Z"]
    assert [line for line in site.log if line != "write the changes to the disk"] == said


def test_a_dry_run_does_not_create_old_roots(site: Site) -> None:
    site.rotate(dry_run=True)
    assert not site.old_roots.exists()


def test_the_description_names_root_base_and_old_roots(site: Site) -> None:
    site.settings |= {"base": "root-base", "keep-days": 12}
    line = Btrfs(site.settings).describe("/", "UUID=1-2", "@")
    for word in ("/", "UUID=1-2", "@", "root-base", "old_roots", "12", "3"):
        assert word in line
    assert "\n" not in line


def test_finds_settings_that_cannot_work() -> None:
    settings: dict[str, object] = {
        "base": "old/base",
        "old-roots": "old",
        "mount-options": ["subvolid=7", "ro", "noatime"],
    }
    assert [f.key for f in Btrfs.validate(settings)] == [
        "old-roots", "mount-options", "mount-options",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, 0), ("10%", 100), (512, 512), ("512", 512), ("2K", 2048), ("1.5KiB", 1536),
     ("1G", 1 << 30)],
)  # fmt: skip
def test_validates_amounts(value: object, expected: int) -> None:
    assert retention.amount(value, 1000) == expected
