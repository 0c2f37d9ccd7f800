"""The tmpfs wiper on real mounts, and both stages of a boot with it, as the entry point
runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from checkout import CHECKOUT
from ephemeroot.config import examine, read
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks.__main__ import EMERGENCY
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.assembly import put_together
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.wipers.contract import Boot
from ephemeroot.wipers.tmpfs import Tmpfs
from image_plans import bundled
from machine_tree import DEVICE, STORE, VOLUME, MachineTree

DEFAULTS: dict[str, object] = {option.name: option.default for option in Tmpfs.OPTIONS}
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"

USR = f"""\
[[volumes]]
mount-point = "/usr"
device = "{DEVICE}"
type = "btrfs"
options = ["subvol=usr", "ro"]
"""
ROOT = '[root]\nwiper = "tmpfs"\n'


# The wiper


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The wiper's private directory and the mount point of the root."""
    private, sysroot = tmp_path / "private", tmp_path / "sysroot"
    private.mkdir()
    sysroot.mkdir()
    yield private, sysroot
    for place in (private, sysroot):
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def boot(places: tuple[Path, Path], **values: object) -> Boot:
    given: dict[str, object] = {
        "device": "", "subvolume": None, "target": "/", "private": str(places[0]),
        "boot_id": "boot", "now": 0.0, "synchronised": False, "prove": lambda path: None,
        "log": lambda line: None, "root": "tmpfs", "mount_point": str(places[1]),
    }  # fmt: skip
    return Boot(**{**given, **values})  # type: ignore[arg-type]


@pytest.mark.requires_root
def test_mounts_a_root_with_all_its_options(places: tuple[Path, Path]) -> None:
    seen = []
    settings = DEFAULTS | {
        "size": str(8 << 20), "mode": 0o750, "nr-inodes": 1000,
        "mount-options": ["nosuid", "huge=never"],
    }  # fmt: skip
    wiper = Tmpfs(settings)
    outcome = wiper.wipe(
        boot(
            places,
            prove=lambda path: seen.append(sorted(os.listdir(path))),
            mount_points=["/nix", "/srv/data/deep", "/usr", "/lib/modules"],
        )
    )
    found = subprocess.run(
        ["findmnt", "-no", "FSTYPE,OPTIONS", places[1]], check=True, capture_output=True, text=True
    ).stdout
    assert found.split()[0] == "tmpfs"
    assert {"rw", "nosuid", "size=8192k", "mode=750", "nr_inodes=1000"} <= set(
        found.split()[1].split(",")
    )
    assert seen == [sorted(os.listdir(places[1]))]
    assert {"proc", "sys", "dev", "run", "tmp", "usr", "var", "etc", "root", "bin"} <= set(*seen)
    assert os.readlink(places[1] / "sbin") == "usr/sbin"
    assert (places[1] / "srv/data/deep").is_dir()
    assert (places[1] / "nix").is_dir()
    assert not (places[1] / "usr/lib").exists(), "that is the volume's"
    assert places[1].stat().st_mode & 0o7777 == 0o750
    assert not os.path.ismount(places[0])
    assert wiper.is_fresh(str(places[1]), outcome.fresh)


@pytest.mark.requires_root
def test_another_tmpfs_is_not_the_fresh_root(places: tuple[Path, Path]) -> None:
    outcome = Tmpfs(DEFAULTS).wipe(boot(places))
    subprocess.run(["mount", "-t", "tmpfs", "none", places[1]], check=True)
    assert not Tmpfs(DEFAULTS).is_fresh(str(places[1]), outcome.fresh)
    subprocess.run(["umount", places[1]], check=True)
    assert Tmpfs(DEFAULTS).is_fresh(str(places[1]), outcome.fresh)


@pytest.mark.requires_root
@pytest.mark.parametrize("dry_run", [False, True])
def test_mounts_nothing_before_the_proof(places: tuple[Path, Path], dry_run: bool) -> None:
    def prove(path: str) -> None:
        assert os.path.ismount(path)
        if not dry_run:
            raise Refused("it could not boot")

    try:
        Tmpfs(DEFAULTS).wipe(boot(places, prove=prove, dry_run=dry_run))
    except Refused:
        assert not dry_run
    else:
        assert dry_run
    assert not os.path.ismount(places[0])
    assert not os.path.ismount(places[1])


@pytest.mark.requires_root
def test_does_not_cover_an_existing_mount(places: tuple[Path, Path]) -> None:
    Tmpfs(DEFAULTS).wipe(boot(places))
    (places[1] / "precious").touch()
    with pytest.raises(EphemerootError, match=r"already mounted at"):
        Tmpfs(DEFAULTS).wipe(boot(places))
    assert (places[1] / "precious").exists()


@pytest.mark.requires_root
def test_reports_an_option_that_the_kernel_refuses(places: tuple[Path, Path]) -> None:
    with pytest.raises(OSError, match="frobnicate"):
        Tmpfs(DEFAULTS | {"mount-options": ["frobnicate"]}).wipe(boot(places))
    assert not os.path.ismount(places[1])


def test_has_no_old_roots(places: tuple[Path, Path]) -> None:
    with pytest.raises(Refused, match="keeps no old root"):
        Tmpfs(DEFAULTS).wipe(boot(places, request="2026-11-23T02-15-00Z"))


# The configuration


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path / "machine", ROOT + USR + VOLUME + STORE)


def configure(tree: MachineTree, lines: str) -> None:
    tree.write(
        "etc/ephemeroot/ephemeroot.toml", f"{ROOT}[root.tmpfs]\n{lines}\n{USR}{VOLUME}{STORE}"
    )


def test_the_plan_has_its_settings(tree: MachineTree) -> None:
    configure(tree, 'size = "1G"\nmode = "0711"\nnr-inodes = "100K"\nmount-options = ["noswap"]')
    wipe = next(o for o in tree.plan().wipe if isinstance(o, Wipe))
    assert wipe.describe() == (
        "make / a fresh tmpfs (size=1073741824,mode=0711,nr_inodes=102400,noswap)"
    )
    configure(tree, 'size = "40%"')
    wipe = next(o for o in tree.plan().wipe if isinstance(o, Wipe))
    assert wipe.describe() == "make / a fresh tmpfs (size=40%,mode=0755)"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('mount-options = ["size=1G"]', "size= is set by its own key"),
        ('mount-options = ["nr_inodes=7"]', "nr_inodes= is set by its own key (set nr-inodes)"),
        ('mount-options = ["nr_blocks=1"]', "nr_blocks= is set by its own key (set size)"),
        ('mount-options = ["nr_blocks=0"]', "nr_blocks= is set by its own key (set size)"),
        ('mount-options = ["uid=1000"]', "root must own the root directory"),
        ('mount-options = ["ro"]', "read-only root"),
        ('mount-options = ["huge=always,noswap"]', "contains several options"),
        ('size = "101%"', "more than 100%"),
        ("nr-inodes = 10", "10 files are too few"),
        ('mode = "0000"', "only root can enter"),
        ('mode = "000"', "only root can enter"),
        ('mode = "a="', "only root can enter"),
        ('mode = "u=rwx,g=rx,o="', "only root can enter"),
        ('mode = "0777"', "any user could rename"),
        ('mode = "1777"', "any user could rename"),
        ('mode = "a=rwx"', "any user could rename"),
        ('mode = "0700"', "only root can enter"),
        ('device = "/dev/sda"', "unknown key `device`"),
    ],
)
def test_reports_mistakes_in_the_tmpfs_table(tree: MachineTree, lines: str, complaint: str) -> None:
    configure(tree, lines)
    assert complaint in tree.complaint()


def warnings(tree: MachineTree) -> str:
    return "\n".join(f"{p.key}: {p.reason}" for p in tree.problems() if p.warning)


def test_warns_of_an_unknown_option(tree: MachineTree) -> None:
    configure(tree, 'mount-options = ["frobnicate", "mpol=bind:0,1"]')
    assert "'frobnicate' is not a known option of tmpfs" in warnings(tree)
    assert "mpol" not in warnings(tree)


def test_warns_of_a_size_beyond_the_memory(tree: MachineTree) -> None:
    configure(tree, 'size = "2G"')
    for memory, said in ((1 << 30, True), (4 << 30, False), (0, False)):
        machine = replace(tree.machine, memory=memory)
        problems = examine(read(machine), machine).problems
        found = [p for p in problems if "has only 1.0 GiB of memory" in p.reason]
        assert bool(found) == said
        assert all(p.warning and p.key == "root.tmpfs.size" for p in found)


def test_warns_of_logs_that_do_not_persist(tree: MachineTree) -> None:
    assert "/var/log does not persist" not in warnings(tree)
    text = (ROOT + USR + VOLUME + STORE).replace('"/var/log"', '"/srv"')
    tree.write("etc/ephemeroot/ephemeroot.toml", text)
    assert "/var/log does not persist" in warnings(tree)


def test_usr_must_be_a_volume(tree: MachineTree) -> None:
    tree.write("etc/ephemeroot/ephemeroot.toml", ROOT + VOLUME + STORE)
    assert "/usr is not a volume needed for boot" in tree.complaint()


def test_reports_another_root_on_the_command_line(tree: MachineTree) -> None:
    tree.write("etc/kernel/cmdline", "root=UUID=x ro\n")
    reason = "root=UUID=x does not match: a root on a tmpfs is booted with root=tmpfs"
    assert reason in warnings(tree)
    tree.write("etc/kernel/cmdline", "root=tmpfs\n")
    assert "is booted" not in warnings(tree)


def test_a_volume_cannot_be_wiped_with_tmpfs(tree: MachineTree) -> None:
    volume = USR.replace("usr", "home") + 'wipe = { wiper = "tmpfs" }\n'
    tree.write("etc/ephemeroot/ephemeroot.toml", ROOT + USR + volume + VOLUME + STORE)
    assert "the wiper tmpfs wipes only roots" in tree.complaint()


def test_contents_of_the_image_for_tmpfs(tree: MachineTree, tmp_path: Path) -> None:
    """Without the library for btrfs, and with the instruction not to mount a second root."""
    contents = put_together(tmp_path / "image", tree.plan().dump(), DracutTarget())
    assert contents.reason is None
    assert contents.armed
    names = [contents.tree.name(path) for path in contents.tree.files()]
    assert "ephemeroot.wipers.tmpfs" in bundled(contents).index
    assert "/usr/lib/systemd/system/sysroot.mount.d/ephemeroot.conf" in names
    assert not [name for name in names if "btrfsutil" in name]


def test_the_documented_configurations_are_valid(tmp_path: Path) -> None:
    """docs/roots.md: each is valid on a machine with that kind of root."""
    text = (CHECKOUT / "docs/roots.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        tree = MachineTree(tmp_path / str(number), block)
        tree.write("etc/fstab", f"{DEVICE} / ext4 defaults 0 1\n")
        assert tree.errors() == []


# Whole stages


class Machine:
    """Boots of a machine with /usr and a store on tmpfs."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.boots = 0
        self.sysroot = base / "sysroot"
        self.generation = 1
        self.more: list[Operation] = []
        self.disk = base / "disk"
        for name in ("usr", "persistent"):
            (self.disk / name).mkdir(parents=True)
        usr = self.disk / "usr"
        (usr / "lib").mkdir()
        (usr / "sbin").mkdir()
        (usr / "lib/os-release").write_text("ID=test\n")
        (usr / "sbin/init").write_text("#!/bin/sh\n")
        (usr / "sbin/init").chmod(0o755)
        self.sysroot.mkdir()
        marker = {"version": 1, "id": IDENTITY, "path": "/persistent"}
        (self.disk / "persistent/.ephemeroot-store").write_text(json.dumps(marker))

    @property
    def run(self) -> Path:
        return self.base / f"run{self.boots}"

    def plan(self) -> Plan:
        def volume(name: str) -> MountVolume:
            return MountVolume(mount_point=f"/{name}", name=name, device="tmpfs", type="tmpfs")

        persist: list[Operation] = [
            Attach(mount_point="/persistent", volume="persistent"),
            Attach(mount_point="/usr", volume="usr"),
            Parent(path="/var", store="/persistent", source="var"),
            Directory(path="/var/log", store="/persistent", source="var/log"),
        ]
        wipe = Wipe(
            target="/", wiper="tmpfs", attribute="ephemeroot.wipers.tmpfs:Tmpfs", settings=DEFAULTS
        )
        store = Store(path="/persistent", volume="persistent", id=IDENTITY)
        return Plan(
            wipe=[volume("persistent"), volume("usr"), store, wipe, *self.more],
            persist=persist,
            generation=self.generation,
        )

    def stage(self, stage: str, words: str = "") -> subprocess.CompletedProcess[str]:
        plan = self.base / "plan.json"
        plan.write_bytes(self.plan().dump())
        for name in ("usr", "persistent"):
            # They represent disks: the same content at every boot. Mounted as by the units of the
            # initramfs.
            place = self.run / "volumes" / name
            if not place.exists():
                place.mkdir(parents=True)
                subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
                subprocess.run(["cp", "-a", f"{self.disk / name}/.", place], check=True)
        return subprocess.run(
            [sys.executable, "-P", "-m", "ephemeroot.hooks", stage, "--plan", plan, "--target",
             self.sysroot, "--run", self.run, "--verbose", "--cmdline", f"ro {words}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def leave(self) -> None:
        subprocess.run(["umount", "-R", self.sysroot], check=False, capture_output=True)
        for name in ("usr", "persistent"):
            place = self.run / "volumes" / name
            subprocess.run(["umount", place], check=False, capture_output=True)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.leave()


@pytest.mark.requires_root
@pytest.mark.parametrize("words", ["root=tmpfs", "root=tmpfs ephemeroot.wipe=no"])
def test_both_stages_run(machine: Machine, words: str) -> None:
    """No root can be kept, so the fresh one is made even if no wipe is wanted."""
    wiped = machine.stage("wipe", words)
    assert wiped.returncode == 0, wiped.stderr
    assert machine.stage("wipe", words).stderr.count("already done") == 1
    persisted = machine.stage("persist", words)
    assert persisted.returncode == 0, persisted.stderr
    assert os.path.ismount(machine.sysroot / "usr")
    assert (machine.sysroot / "sbin/init").exists()
    assert os.path.ismount(machine.sysroot / "var/log")
    assert (machine.sysroot / "persistent/var/log").is_dir()


@pytest.mark.requires_root
@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda usr: (usr / "sbin/init").unlink(), "the fresh root has no executable /sbin/init"),
        (
            lambda usr: (usr / "lib/os-release").unlink(),
            "the fresh root has no /usr/lib/os-release: systemd would not switch to it",
        ),
        (
            lambda usr: (usr / "lib/modules/2.6.32-5-amd64").mkdir(parents=True),
            f"no modules for the running kernel {os.uname().release}, only for 2.6.32-5-amd64",
        ),
    ],
    ids=["init", "os-release", "modules"],
)
def test_a_root_that_could_not_boot_ends_in_an_emergency(
    machine: Machine, break_it: Callable[[Path], None], said: str
) -> None:
    """Its proof includes the volumes. on-failure.wipe is keep, but a root in memory
    cannot be kept.
    """
    break_it(machine.disk / "usr")
    wiped = machine.stage("wipe", "root=tmpfs")
    assert wiped.returncode == EMERGENCY, wiped.stderr
    assert said in wiped.stderr
    assert "change root= on the kernel command line" in wiped.stderr
    assert not os.path.ismount(machine.sysroot)


@pytest.mark.requires_root
def test_a_home_that_cannot_be_wiped_is_kept(machine: Machine) -> None:
    """The root is already mounted: the machine can boot."""
    home = Wipe(
        target="/home",
        wiper="btrfs",
        attribute="ephemeroot.wipers.btrfs:Btrfs",
        device=str(machine.base / "no-such-device"),
        subvolume="home",
    )
    machine.more = [home]
    wiped = machine.stage("wipe", "root=tmpfs")
    assert wiped.returncode == 10, wiped.stderr
    assert "/ was made fresh before the failure; the rest is kept" in wiped.stderr
    assert os.path.ismount(machine.sysroot)
    assert "already done in this boot: " in machine.stage("wipe", "root=tmpfs").stderr
    assert machine.stage("persist", "root=tmpfs").returncode == 0


@pytest.mark.requires_root
def test_boots_another_root_untouched(machine: Machine) -> None:
    wiped = machine.stage("wipe", "root=/dev/sda2")
    assert wiped.returncode == 11, wiped.stderr
    assert "boots root=/dev/sda2: a root on a tmpfs is booted with root=tmpfs" in wiped.stderr
    assert not os.path.ismount(machine.sysroot)


@pytest.mark.requires_root
def test_an_old_image_boots(machine: Machine) -> None:
    state = machine.disk / "persistent/.ephemeroot"
    state.mkdir(mode=0o700)
    (state / "generation").write_text("5")
    wiped = machine.stage("wipe", "root=tmpfs")
    assert wiped.returncode == 0, wiped.stderr
    assert os.path.ismount(machine.sysroot)


@pytest.mark.requires_root
def test_detects_a_mount_over_the_fresh_root(machine: Machine) -> None:
    assert machine.stage("wipe", "root=tmpfs").returncode == 0
    subprocess.run(["mount", "-t", "tmpfs", "none", machine.sysroot], check=True)
    persisted = machine.stage("persist", "root=tmpfs")
    assert persisted.returncode == EMERGENCY
    assert "is not the fresh root" in persisted.stderr
