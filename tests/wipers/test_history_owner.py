"""A history has one owner: no other system adds roots to it or prunes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import btrfsutil
import pytest

from btrfs_image import DAY, NOON, Disk, Site, fresh_disk
from ephemeroot import cli
from ephemeroot.errors import Refused
from ephemeroot.hooks import plan as plans
from ephemeroot.wipers import marks, names
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.btrfs.leftovers import Leftover
from ephemeroot.wipers.oldroot import FOREIGN
from ephemeroot.wipers.overlay import Overlay
from living_machine import LivingMachine, living_machine
from machine_tree import MachineTree

OURS, THEIRS = "0" * 31 + "1", "0" * 31 + "2"

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with fresh_disk(tmp_path) as made:
        yield made


class System:
    """One of two systems with the proposal of the first version of ``init``: one old-roots for
    both.
    """

    def __init__(self, site: Site, name: str, system: str) -> None:
        self.site = Site(site.disk, site.name)
        self.site.root = site.path / name
        self.site.settings = {**site.settings, "keep-days": 1, "keep-last": 0}
        self.site.with_root(name)
        self.system = system

    def rotate(self, now: float) -> list[str]:
        boot = self.site.boot(now, synchronised=True)
        boot.system = self.system
        outcome = Btrfs(self.site.settings).wipe(boot)
        self.site.live(self.system)
        return outcome.pruned


def test_two_systems_cannot_share_their_old_roots(disk: Disk) -> None:
    site = disk.site()
    first, second = System(site, "debian", OURS), System(site, "arch", THEIRS)
    for day in range(5):
        pruned = first.rotate(NOON + 7 * day * DAY)
        kept = site.old()
        with pytest.raises(Refused, match="the history of another system"):
            second.rotate(NOON + (7 * day + 3) * DAY)
        assert site.old() == kept, "nothing of the first system's went, and nothing was added"
        assert bool(pruned) == (day > 1), "its own are pruned as ever"
        assert (second.site.root / "file").read_text() == "arch"
    assert site.strays() == []


def test_two_systems_with_separate_old_roots_both_work(disk: Disk) -> None:
    site = disk.site()
    first, second = System(site, "debian", OURS), System(site, "arch", THEIRS)
    second.site.settings["old-roots"] = f"{site.name}/arch-old_roots"
    for day in range(5):
        first.rotate(NOON + day * DAY)
        second.rotate(NOON + day * DAY)
    (one,) = [name for name in site.old() if name.endswith(".keep")]
    others = os.listdir(site.path / "arch-old_roots")
    (other,) = [name for name in others if name.endswith(".keep")]
    assert (site.old_roots / one / "file").read_text() == "debian"
    assert (site.path / "arch-old_roots" / other / "file").read_text() == "arch"


@pytest.mark.parametrize("place", ["beside the root", "in old-roots"])
@pytest.mark.parametrize("whose", ["ours", "theirs", "nobody's"])
def test_does_not_recover_leftovers_of_another_system(disk: Disk, whose: str, place: str) -> None:
    """An earlier installation had a root of the same name, and a power cut."""
    ours, theirs = "0a" * 16, "0b" * 16
    system = {"ours": ours, "theirs": theirs}.get(whose, "")
    site = disk.site().with_root()
    name = names.parse("2026-11-20T00-00-00Z")
    assert name is not None
    text = Leftover("root", name, None, read_only=False, system=system).text
    assert text.startswith(f".root.ephemeroot.{system[:8]}")
    site.old_roots.mkdir(mode=0o700)
    left = (site.path if place == "beside the root" else site.old_roots) / text
    btrfsutil.create_subvolume(str(left))
    (left / "work").write_text("")
    boot = site.boot()
    boot.system = ours
    recovered = Btrfs(site.settings).wipe(boot).recovered
    assert bool(recovered) == (whose != "theirs")
    assert left.exists() == (whose == "theirs")


def test_a_dry_run_claims_nothing(disk: Disk) -> None:
    site = disk.site().with_root()
    site.retire("2026-11-01T00-00-00Z")
    boot = site.boot(dry_run=True)
    boot.system = OURS
    Btrfs(site.settings).wipe(boot)
    assert marks_of(site.old_roots) == ""
    boot = site.boot()
    boot.system = OURS
    Btrfs(site.settings).wipe(boot)
    assert marks_of(site.old_roots) == OURS, "one without an owner is taken"


def test_an_overlay_leaves_the_layers_of_another_system_alone(tmp_path: Path) -> None:
    from ephemeroot.wipers.overlay.uppers import Uppers

    layers = Uppers(str(tmp_path))
    layers.require_own(THEIRS, take=True)
    with pytest.raises(Refused, match="the history of another system"):
        layers.require_own(OURS, take=True)
    with pytest.raises(Refused, match="the history of another system"):
        layers.require_own("", take=True)
    layers.require_own(THEIRS, take=False)
    layers.close()
    assert Overlay.NAME == "overlay"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    with living_machine(tmp_path) as made:
        yield made


def test_verbs_leave_another_systems_old_roots_alone_until_they_are_claimed(
    machine: LivingMachine,
) -> None:
    for day in range(3):
        machine.boot(NOON - (100 - day) * DAY)
    old_roots = machine.disk.top / "old_roots"
    set_owner(old_roots, THEIRS)
    applied(machine, OURS)
    before = machine.old()
    (history,) = machine.json("roots", "list")["histories"]
    assert history["of-another-system"] == THEIRS
    assert {entry["kind"] for entry in history["entries"]} == {FOREIGN}
    assert "of another system" in machine.call("roots", "list").stdout
    for words in (("prune", "--yes"), ("delete", before[0], "--yes"), ("keep", before[1]),
                  ("unkeep", before[0]), ("prune", "--yes", "--recipe-names")):  # fmt: skip
        machine.call("roots", *words)
        assert machine.old() == before, words
    shown = machine.call("roots", "claim", "--dry-run")
    assert f"which belongs to {THEIRS}: not done: dry run" in shown.stdout
    assert marks_of(old_roots) == THEIRS
    claimed = machine.call("roots", "claim", "--yes")
    assert claimed.returncode == 0, claimed.stderr
    assert marks_of(old_roots) == OURS
    (history,) = machine.json("roots", "list")["histories"]
    assert history["of-another-system"] is None
    assert FOREIGN not in {entry["kind"] for entry in history["entries"]}
    assert "nothing to change" in machine.call("roots", "claim", "--yes").stdout


def test_apply_makes_one_id_and_keeps_it(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    plan = tree.path / "etc/ephemeroot/plan.json"

    def apply() -> str:
        words = ["apply", "--no-images", "--yes", "--root", str(tree.path)]
        assert cli.main(words) == 0
        return plans.parse(plan.read_bytes()).system

    first = apply()
    assert len(first) == 32
    assert apply() == first, "nothing has changed"
    store = plans.parse((tree.path / "persistent/.ephemeroot/plan.json").read_bytes())
    assert store.system == first
    plan.unlink()
    assert apply() == first, "a reinstallation with the store at hand"
    # A copy of this system, for another root.
    fstab = tree.path / "etc/fstab"
    fstab.write_text(fstab.read_text().replace("subvol=root", "subvol=second"))
    cmdline = tree.path / "etc/kernel/cmdline"
    if cmdline.exists():
        cmdline.write_text(cmdline.read_text().replace("subvol=root", "subvol=second"))
    assert apply() != first, "is another system"


def marks_of(directory: Path) -> str:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return marks.system(fd)
    finally:
        os.close(fd)


def set_owner(directory: Path, system: str) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        marks.set_system(fd, system)
    finally:
        os.close(fd)


def applied(machine: LivingMachine, system: str) -> None:
    """The applied plan of this root, with an ID."""
    plan = machine.plan()
    plan.system = system
    (machine.root / "etc/ephemeroot/plan.json").write_bytes(plan.dump())
