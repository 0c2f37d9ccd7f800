"""A rotation interrupted between any two steps, and the recovery from it, interrupted in turn.

A child process runs the real wipe and dies right before its n-th change to the disk, with every
n. There are two kinds of death: only the process dies, and the disk has all its writes (a kill, or
a power cut after a commit); or the power fails, and the disk has only the committed state, which is
the content of the image file at that instant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cutting
import proof
from btrfs_image import NOON, Disk, Site, btrfsutil, fresh_disk, loop_device, mounted, uuid
from ephemeroot.wipers import names
from ephemeroot.wipers.btrfs import Btrfs

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

CHANGES = frozenset((
    "create_subvolume", "create_snapshot", "set_subvolume_read_only", "set_default_subvolume",
    "sync", "ioctl", "setxattr", "mkdir", "rmdir", "symlink", "fchown", "fchmod", "utime",
))  # fmt: skip
"""The functions through which the wiper changes a disk, with ``paths.rename``."""


def run_and_cut(site: Site, now: float, at: int, last_words: Callable[[], None]) -> bool:
    """Rotate in a child that dies before its change number *at*; return whether it came
    that far.
    """
    return cutting.run_and_cut(lambda: site.rotate(now), CHANGES, at, last_words)


class Scenario:
    """A machine before the interruption, and the conditions after it."""

    def __init__(self, name: str, *, base: bool, root: bool, read_only: bool = False) -> None:
        self.name = name
        self.base = base
        self.root = root
        self.read_only = read_only
        self.default = name == "default"
        # Most changes of an empty root make its skeleton: a few of them are enough.
        self.stride = 1 if base else 4
        self.previous = ""

    def prepare(self, disk: Disk) -> Site:
        site = disk.site()
        if self.base:
            site.with_base()
            btrfsutil.create_subvolume(str(site.path / "base/nested"))
        if self.root:
            site.with_root("precious")
            btrfsutil.create_subvolume(str(site.root / "nested"))
            (site.root / "nested/file").write_text("precious too")
            self.previous = uuid(site.root)
        if self.read_only:
            btrfsutil.set_subvolume_read_only(str(site.root), True)
        if self.default:
            btrfsutil.set_default_subvolume(str(site.root))
        site.settings["set-default"] = self.default
        disk.sync()
        return site

    def judge_the_cut(self, site: Site) -> None:
        """Before a recovery: the name leads to the previous root or to a complete fresh one."""
        if not site.root.exists():
            assert not self.root
        elif uuid(site.root) == self.previous:
            self._judge_previous(site.root)
        else:
            self._judge_fresh(site)
        if self.root:
            self._find_previous(site)

    def judge_the_recovery(self, site: Site) -> None:
        """After a later wipe: the root is fresh, the previous root is once in the history, and no
        temporary name is left.
        """
        self._judge_fresh(site)
        assert site.strays() == []
        assert all(names.parse(name) for name in site.old())
        if self.root:
            place = self._find_previous(site)
            assert place.parent == site.old_roots
            assert place.name.endswith(".keep")
            assert btrfsutil.get_subvolume_read_only(str(place)) == self.read_only
        if self.default:
            top = str(site.disk.top)
            assert btrfsutil.get_default_subvolume(top) == btrfsutil.subvolume_id(str(site.root))

    def _judge_fresh(self, site: Site) -> None:
        state = os.getxattr(site.root, "trusted.ephemeroot.state").decode()
        assert state == f"new {uuid(site.root)}"
        if self.base:
            assert (site.root / "origin").read_text() == "base"
            assert (site.root / "nested").stat().st_ino not in (2, 256)
        else:
            assert {"proc", "sys", "dev", "lib", "bin"} <= set(os.listdir(site.root))
        assert not btrfsutil.get_subvolume_read_only(str(site.root))

    def _judge_previous(self, place: Path) -> None:
        assert (place / "file").read_text() == "precious"
        assert (place / "nested/file").read_text() == "precious too"

    def _find_previous(self, site: Site) -> Path:
        places = [*site.path.iterdir()]
        if site.old_roots.exists():
            places += site.old_roots.iterdir()
        found = [p for p in places if p.stat().st_ino == 256 and uuid(p) == self.previous]
        assert len(found) == 1
        self._judge_previous(found[0])
        return found[0]


SCENARIOS = [
    Scenario("empty", base=False, root=True),
    Scenario("base", base=True, root=True),
    Scenario("read-only", base=True, root=True, read_only=True),
    Scenario("no-root", base=True, root=False),
    Scenario("default", base=True, root=True),
]
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)


def start(scenario: Scenario) -> int:
    """The first step at which it is interrupted: each of the five scenarios samples other steps."""
    return 0 if proof.is_whole() else SCENARIOS.index(scenario)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, private_mounts: None) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("cut"), 512) as disk:
        yield disk
        btrfsutil.set_default_subvolume(str(disk.top), 5)


@each_scenario
def test_a_kill_between_any_two_steps(disk: Disk, scenario: Scenario) -> None:
    cuts = 0
    for at in range(start(scenario), 200, proof.stride(2)):
        site = scenario.prepare(disk)
        if not run_and_cut(site, NOON, at, lambda: None):
            break
        cuts += 1
        scenario.judge_the_cut(site)
        assert site.rotate(NOON + 60).problems == []
        scenario.judge_the_recovery(site)
        remove(site)
    assert cuts >= proof.rounds(4, 8)
    proof.record("kill between two changes: btrfs rotation", cuts)


@each_scenario
def test_a_kill_during_the_recovery_from_a_kill(disk: Disk, scenario: Scenario) -> None:
    """Any number of leftovers: every pair of interruptions, then three in a row."""
    pairs = 0
    for first in range(2, 200, proof.stride(10, 4) * scenario.stride):
        cut = True
        for second in range(0, 200, proof.stride(5, 2) * scenario.stride):
            site = scenario.prepare(disk)
            cut = run_and_cut(site, NOON, first, lambda: None)
            if not cut or not run_and_cut(site, NOON + 60, second, lambda: None):
                remove(site)
                break
            pairs += 1
            scenario.judge_the_cut(site)
            run_and_cut(site, NOON + 120, (first + second) % 9, lambda: None)
            scenario.judge_the_cut(site)
            assert site.rotate(NOON + 180).problems == []
            scenario.judge_the_recovery(site)
            remove(site)
        if not cut:
            break
    assert pairs >= proof.rounds(2, 10)
    proof.record("kills during the recovery from a kill: btrfs rotation", pairs)


def remove(site: Site) -> None:
    """Free the space of the site: hundreds of them share a disk."""
    btrfsutil.set_default_subvolume(str(site.disk.top), 5)
    with os.scandir(site.path) as entries:
        held = [Path(entry.path) for entry in entries]
    if site.old_roots.exists():
        held += site.old_roots.iterdir()
    for path in held:
        if path.lstat().st_ino == 256:
            btrfsutil.set_subvolume_read_only(str(path), False)
            btrfsutil.delete_subvolume(str(path), recursive=True)
    shutil.rmtree(site.path)


@each_scenario
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "uncommitted"])
def test_a_power_cut_between_any_two_steps(
    tmp_path: Path, scenario: Scenario, committed: bool
) -> None:
    """The image as it is at that instant is mounted again: a disk would have the same content."""
    cuts = 0
    for at in range(start(scenario), 200, proof.stride(5) * scenario.stride):
        copy = tmp_path / "copy"
        with fresh_disk(tmp_path, 128) as disk:
            site = scenario.prepare(disk)

            def last_words(disk: Disk = disk, copy: Path = copy) -> None:
                if committed:
                    disk.sync()
                command = ["cp", "--sparse=always", str(tmp_path / "image"), str(copy)]
                subprocess.run(command, check=True)

            cut = run_and_cut(site, NOON, at, last_words)
            if cut:
                # The killed child has left the top level mounted.
                subprocess.run(["umount", disk.private / "top"], check=False, capture_output=True)
        if not cut:
            break
        cuts += 1
        with loop_device(copy) as loop, mounted(loop, tmp_path / "top") as top:
            after = Disk(loop, top, tmp_path / "private")
            survivor = Site(after, site.name)
            survivor.settings = site.settings
            scenario.judge_the_cut(survivor)
            assert survivor.rotate(NOON + 60).problems == []
            scenario.judge_the_recovery(survivor)
        copy.unlink()
    assert cuts >= proof.rounds(2, 8)
    proof.record("power cut between two changes: btrfs rotation", cuts)


def test_a_boot_complete_root_stays_so(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with fresh_disk(tmp_path, 128) as disk:
        site = disk.site().with_root()
        site.rotate()
        site.live()
        subprocess.run(["cp", "--sparse=always", tmp_path / "image", copy], check=True)
    with loop_device(copy) as loop, mounted(loop, tmp_path / "top") as top:
        survivor = Site(Disk(loop, top, tmp_path / "private"), site.name)
        assert survivor.rotate(NOON + 1).retired == "2026-11-23T12-00-01Z"


# Leftovers in a state that no rotation of Ephemeroot leaves


def temporary(site: Site, owner: str, number: int = 0) -> Path:
    return site.path / f".root.ephemeroot.2026-11-20T00-00-{number:02}Z.{owner}"


def test_recovers_any_number_of_leftovers(disk: Disk) -> None:
    site = disk.site().with_root()
    for number in range(7):
        path = site.path / f"made{number}"
        btrfsutil.create_subvolume(str(path))
        path.rename(temporary(site, uuid(path), number))
    outcome = site.rotate()
    assert len(outcome.recovered) == 7
    assert site.old() == [
        *(f"2026-11-20T00-00-0{number}Z" for number in range(7)),
        "2026-11-23T12-00-00Z",
    ]


def test_does_not_delete_a_fresh_root_with_later_changes(disk: Disk) -> None:
    """It was never marked, or has subvolumes in it: it is retired as unused."""
    site = disk.site().with_root()
    site.rotate()
    for number, marked in enumerate((False, True)):
        path = temporary(site, "none", number)
        btrfsutil.create_subvolume(str(path))
        (path / "work").write_text("done here")
        if marked:
            os.setxattr(path, "trusted.ephemeroot.state", f"new {uuid(path)}".encode())
            btrfsutil.create_subvolume(str(path / "nested"))
    outcome = site.rotate(NOON + 1)
    assert len(outcome.recovered) == 2
    for number in range(2):
        (place,) = site.old_roots.glob(f"2026-11-20T00-00-0{number}Z*")
        assert (place / "work").exists()
        assert place.name.endswith(".unused")


def test_an_unused_root_does_not_inherit_read_only_from_the_previous_root(disk: Disk) -> None:
    site = disk.site().with_root()
    path = site.path / f".root.ephemeroot.2026-11-20T00-00-00Z.ro.{uuid(site.root)}"
    btrfsutil.create_subvolume(str(path))
    site.rotate()
    place = site.old_roots / "2026-11-20T00-00-00Z.unused"
    assert not btrfsutil.get_subvolume_read_only(str(place))


def test_deletes_a_fresh_root_that_never_got_its_name(disk: Disk) -> None:
    site = disk.site().with_root()
    path = temporary(site, "3c2a1b00-0000-4000-8000-00000000002a")
    btrfsutil.create_subvolume(str(path))
    os.setxattr(path, "trusted.ephemeroot.state", f"new {uuid(path)}".encode())
    (outcome,) = site.rotate().recovered
    assert outcome.startswith("deleted")
    assert site.strays() == []


def test_reports_a_similar_name_that_is_not_a_leftover_and_leaves_it(disk: Disk) -> None:
    site = disk.site().with_root()
    directory, link = temporary(site, "none", 1), temporary(site, "none", 2)
    directory.mkdir()
    (directory / "file").write_text("somebody's")
    link.symlink_to("root")
    outcome = site.rotate()
    assert len(outcome.problems) == 2
    assert (directory / "file").read_text() == "somebody's"
    assert link.is_symlink()
    assert outcome.retired == "2026-11-23T12-00-00Z.keep"


def test_reports_a_mounted_leftover_and_leaves_it(disk: Disk, tmp_path: Path) -> None:
    site = disk.site().with_root()
    path = site.path / "made"
    btrfsutil.create_subvolume(str(path))
    path = path.rename(temporary(site, uuid(path)))
    relative = f"{site.name}/{path.name}"
    with mounted(disk.loop, tmp_path / "m", f"subvol={relative}"):
        (problem,) = site.rotate().problems
        assert "mounted" in problem
        assert path.exists()
    assert len(site.rotate(NOON + 1).recovered) == 1


def test_does_not_change_leftovers_of_another_root(disk: Disk) -> None:
    site = disk.site().with_root()
    other = site.path / ".home.ephemeroot.2026-11-20T00-00-00Z.none"
    btrfsutil.create_subvolume(str(other))
    assert site.rotate().recovered == []
    assert other.exists()


def test_a_name_that_is_taken_meanwhile_gets_a_number(disk: Disk) -> None:
    site = disk.site().with_root()
    path = site.path / "made"
    btrfsutil.create_subvolume(str(path))
    path.rename(temporary(site, uuid(path)))
    site.retire("2026-11-20T00-00-00Z")
    site.rotate()
    assert (site.old_roots / "2026-11-20T00-00-00Z.2").exists()


def test_a_failure_after_the_exchange_is_a_problem_but_not_an_error(disk: Disk) -> None:
    """Another process removes old-roots at the worst moment: the fresh root already has
    its name.
    """
    site = disk.site().with_root()
    site.settings["old-roots"] = f"{site.name}/old_roots"

    def log(line: str) -> None:
        if line.startswith("retire"):
            site.old_roots.rmdir()

    outcome = site.rotate(log=log)
    assert outcome.fresh["subvolume-uuid"] == uuid(site.root)
    assert outcome.retired is None
    assert any("retire" in problem for problem in outcome.problems)
    assert Btrfs(site.settings).is_fresh(str(site.root), outcome.fresh)
    outcome = site.rotate(NOON + 1)
    assert len(outcome.recovered) == 1
    assert "2026-11-23T12-00-00Z.keep" in site.old()
