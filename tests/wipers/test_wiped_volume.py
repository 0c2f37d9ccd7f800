"""A volume that is wiped like the root: an ephemeral /home, with both stages, on a real btrfs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import btrfsutil
import pytest

from btrfs_image import DEFAULTS, fresh_disk
from complete_boot import mark_boot_complete
from ephemeroot.cli import boot_complete
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.volumes import Attach, MountVolume
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo
from ephemeroot.wipers import marks
from ephemeroot.wipers.btrfs import Btrfs, subvolumes
from machine_tree import DEVICE, ROOT, VOLUME, MachineTree
from machine_tree import STORE as STORE_TABLE
from staged_machine import STORE, Machine

pytestmark = pytest.mark.requires_loop


class WithHome(Machine):
    """A machine whose /home is a separate subvolume, also wiped at every boot."""

    def __init__(self, base: Path, loop: str, top: Path) -> None:
        super().__init__(base, loop, top)
        btrfsutil.create_subvolume(str(top / "home"))
        (top / "home/stray").write_text("forget me")
        (top / "home/kept").mkdir()
        (top / "home/kept/letter").write_text("declared just now")
        (top / "root-base/home").mkdir()
        self.persist += [
            Parent(path="/home", store=STORE, source="home"),
            Directory(path="/home/kept", store=STORE, source="home/kept"),
        ]
        self.old_homes = "old_homes"
        self.policy = "keep"

    def plan(self) -> Plan:
        plan = super().plan()
        (root,) = plan.wipes()
        root.identity = {"subvolume": "root"}
        plan.on_failure["wipe"] = self.policy
        plan.wipe += [
            Wipe(
                target="/home",
                wiper="btrfs",
                attribute="ephemeroot.wipers.btrfs:Btrfs",
                device=self.loop,
                subvolume="home",
                settings=DEFAULTS | {"old-roots": self.old_homes},
            ),
            MountVolume(
                mount_point="/home",
                name="home",
                device=self.loop,
                type="btrfs",
                options=["subvol=home"],
            ),
        ]
        plan.persist.insert(0, Attach(mount_point="/home", volume="home"))
        return plan

    def old_of_home(self) -> list[str]:
        return sorted(os.listdir(self.top / self.old_homes))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[WithHome]:
    with fresh_disk(tmp_path) as disk:
        machine = WithHome(tmp_path, disk.loop, disk.top)
        (disk.top / "root/stray").write_text("forget me")
        yield machine
        machine.next_boot()


def test_root_and_home_are_fresh_at_every_boot(machine: WithHome) -> None:
    for number in range(3):
        root = machine.boot()
        assert (root / "home").is_mount()
        assert os.listdir(root / "home") == ["kept"]
        assert (root / "home/kept/letter").read_text() == "declared just now"
        assert not (root / "stray").exists()
        (root / "home/stray").write_text(f"day {number}")
        assert mark_boot_complete(Btrfs({}), root / "home")
        machine.next_boot()
    old = machine.old_of_home()
    assert len(old) == 3
    strays = {(machine.top / "old_homes" / name / "stray").read_text() for name in old}
    assert strays == {"forget me", "day 0", "day 1"}
    assert [name for name in os.listdir(machine.top) if name.startswith(".")] == []


def test_content_below_the_mount_is_not_the_visible_content(machine: WithHome) -> None:
    (machine.top / "root/home/kept").mkdir(parents=True)
    (machine.top / "root/home/kept/letter").write_text("hidden below the mount")
    root = machine.boot()
    assert (root / "home/kept/letter").read_text() == "declared just now"


def test_a_home_that_cannot_be_wiped_stays_and_the_root_is_still_wiped(
    machine: WithHome,
) -> None:
    (machine.top / "old_homes").write_text("a file where the old ones should go")
    done = machine.stage("wipe")
    assert done.returncode == 10, done.stderr
    assert "/ was made fresh before the failure; the rest is kept" in done.stderr
    root = machine.mount_root()
    assert machine.stage("persist").returncode == 0
    assert (root / "home/stray").read_text() == "forget me"
    assert not (root / "stray").exists()
    record = (machine.run / "wiped").read_text()
    assert '"/": {' in record, "what `ephemeroot boot-complete` marks"
    assert '"kept": ' in record


def test_a_step_that_failed_half_way_is_repeated(machine: WithHome) -> None:
    """From an emergency shell, or by an init that calls its hooks until there is a root."""
    machine.policy = "emergency"
    in_the_way = machine.top / "old_homes"
    in_the_way.write_text("a file where the old ones should go")
    for _ in range(2):
        done = machine.stage("wipe")
        assert done.returncode == 73, done.stderr
    in_the_way.unlink()
    root = machine.boot()
    assert not (root / "stray").exists()
    assert os.listdir(root / "home") == ["kept"]
    assert len(machine.old_of_home()) == 1
    assert len(os.listdir(machine.top / "old_roots")) == 1, "the root was made fresh once"


def test_keeping_the_root_keeps_all_volumes(machine: WithHome) -> None:
    root = machine.boot("ephemeroot.wipe=no")
    assert (root / "stray").exists()
    assert (root / "home/stray").exists()


def test_a_root_that_is_not_the_fresh_root(machine: WithHome) -> None:
    assert machine.stage("wipe").returncode == 0
    subprocess.run(["umount", machine.run / "volumes/home"], check=True)
    btrfsutil.create_snapshot(str(machine.top / "home"), str(machine.top / "impostor"))
    (machine.top / "home").rename(machine.top / "aside")
    (machine.top / "impostor").rename(machine.top / "home")
    root = machine.mount_root()
    done = machine.stage("persist")
    assert done.returncode != 0
    assert "is not the fresh /home" in done.stderr
    assert not (root / "home").is_mount()


COUNTED = """\
import sys
from ephemeroot.hooks.__main__ import main
from ephemeroot.linux import mounts
create, seen = mounts.create, []
def counted(fstype, source, options):
    seen.append(options)
    return create(fstype, source, options)
mounts.create = counted
code = main(sys.argv[1:])
print("top levels mounted:", sum("subvolid=5" in options for options in seen))
sys.exit(code)
"""


def test_one_mount_serves_all_subvolumes_of_a_filesystem(machine: WithHome, tmp_path: Path) -> None:
    script = tmp_path / "counted.py"
    script.write_text(COUNTED)
    done = machine.stage("wipe", entry=(str(script),))
    assert done.returncode == 0, done.stderr
    assert "top levels mounted: 1\n" in done.stdout
    assert len(machine.old()) == len(machine.old_of_home()) == 1
    wiper = str(machine.run / "wiper")
    assert not [m.point for m in mountinfo.mounts() if m.point.startswith(wiper)]


class Elsewhere(WithHome):
    """A machine with a volume at *point* instead, wiped at every boot."""

    def __init__(self, base: Path, loop: str, top: Path, point: str) -> None:
        super().__init__(base, loop, top)
        self.point = point
        self.persist = self.persist[:-2]

    def plan(self) -> Plan:
        plan = super().plan()
        for operation in (*plan.wipe, *plan.persist):
            if isinstance(operation, Wipe) and operation.target == "/home":
                operation.target = self.point
            elif isinstance(operation, MountVolume | Attach) and operation.mount_point == "/home":
                operation.mount_point = self.point
        return plan


@pytest.mark.parametrize(
    ("point", "boots"),
    [("/usr", False), ("/sbin", False), ("/usr/lib", False), ("/opt", True), ("/usr/local", True)],
)
def test_the_proof_of_the_root_includes_wiped_volumes(
    tmp_path: Path, point: str, boots: bool
) -> None:
    """A new, empty volume must not hide files that the proof found below it, and `check` refuses
    such a volume.
    """
    with fresh_disk(tmp_path) as disk:
        machine = Elsewhere(tmp_path, disk.loop, disk.top, point)
        (disk.top / "root-base" / point[1:]).mkdir(parents=True, exist_ok=True)
        (disk.top / "root/stray").write_text("of the root")
        done = machine.stage("wipe")
        assert done.returncode == (0 if boots else 10), done.stderr
        root = machine.mount_root()
        assert (root / "stray").exists() == (not boots), "the previous root is kept"
        machine.next_boot()
    tree = MachineTree(
        tmp_path / "tree",
        ROOT
        + VOLUME
        + f'[[volumes]]\nmount-point = "{point}"\ndevice = "{DEVICE}"\ntype = "btrfs"\n'
        + 'options = ["subvol=wiped"]\nwipe = {wiper = "btrfs", old-roots = "old_wiped"}\n'
        + STORE_TABLE,
    )
    refused = [
        str(problem) for problem in tree.errors() if "would hide the programs" in str(problem)
    ]
    assert bool(refused) == (not boots), tree.errors()


def _nothing(place: Path, root: Path) -> None:
    """The volume stays where the boot has mounted it."""


def _linked(place: Path, root: Path) -> None:
    place.parent.rename(place.parent.with_name("moved"))
    place.parent.symlink_to("moved")


def _renamed(place: Path, root: Path) -> None:
    place.parent.rename(place.parent.with_name("moved"))
    place.mkdir(parents=True)


def _another_new_root(place: Path, root: Path) -> None:
    other = place.parent.with_name("other")
    (other / place.name).mkdir(parents=True)
    subprocess.run(["mount", "--bind", root, other / place.name], check=True)
    place.parent.rename(place.parent.with_name("moved"))
    other.rename(place.parent)


def _directory_of_the_volume(place: Path, root: Path) -> None:
    inside = place / "letters"
    inside.mkdir()
    place.parent.rename(place.parent.with_name("moved"))
    place.mkdir(parents=True)
    moved = place.parent.with_name("moved") / place.name / "letters"
    subprocess.run(["mount", "--bind", moved, place], check=True)


@pytest.mark.parametrize(
    "change", [_nothing, _linked, _renamed, _another_new_root, _directory_of_the_volume]
)
def test_only_the_new_root_at_its_own_path_is_marked_boot_complete(
    machine: WithHome, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    """A user whose directory leads to a volume cannot cause another new root to be marked."""
    root = machine.boot()
    place = tmp_path.resolve() / "user/volume"
    place.mkdir(parents=True)
    subprocess.run(["mount", "--bind", root / "home", place], check=True)
    facts = json.loads((machine.run / "wiped").read_text())["/home"]
    wipe = boot_complete._wipe(facts | {"target": str(place)})
    states = {where: state_of(where) for where in (root, root / "home")}
    try:
        change(place, root)
        if change is _nothing:
            assert boot_complete._mark(wipe, facts["fresh"])
            states[root / "home"] = marks.BOOT_COMPLETE
        else:
            with pytest.raises((OSError, EphemerootError)):
                boot_complete._mark(wipe, facts["fresh"])
        assert {where: state_of(where) for where in states} == states
    finally:
        for point in (place.parent.with_name("moved") / place.name, place):
            subprocess.run(["umount", "-q", point], check=False)


def state_of(root: Path) -> str:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return marks.state(fd, subvolumes.identify(fd).uuid)
    finally:
        os.close(fd)
