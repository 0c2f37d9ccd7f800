"""The overlay wiper over a real ext4, with its layers in memory and on a real disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from complete_boot import mark_boot_complete
from ephemeroot import amounts
from ephemeroot.errors import EphemerootError, Locked, Refused
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.assembly import put_together
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.overlay.uppers import Uppers
from machine_tree import DEVICE, STORE, MachineTree
from mounting import unmount
from overlay_machine import (
    DAY,
    DEFAULTS,
    NOON,
    STAMP,
    InstalledRoot,
    Machine,
    fill,
    overlay_machine,
)

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with overlay_machine(tmp_path) as made:
        yield made


def test_boots_with_a_layer_in_memory(machine: Machine) -> None:
    machine.settings = DEFAULTS | {"size": str(4 << 20)}
    for _ in range(3):
        machine.wipe()
        assert (machine.sysroot / "etc/installed").read_text() == "by the installer\n"
        assert not (machine.sysroot / "etc/lost").exists()
        assert machine.sysroot.stat().st_mode & 0o7777 == 0o751
        (machine.sysroot / "etc/lost").write_text("x")
        (machine.sysroot / "etc/installed").unlink()
        with pytest.raises(OSError, match="No space left"):
            (machine.sysroot / "large").write_bytes(bytes(5 << 20))
    assert not mark_boot_complete(Overlay(machine.settings), machine.sysroot)
    unmount(machine.sysroot)
    with InstalledRoot(machine) as top:
        assert sorted(os.listdir(top / "etc")) == ["installed"]
        assert not (top / "large").exists()


def test_boots_with_layers_on_a_volume(machine: Machine) -> None:
    retired = []
    for day in range(3):
        outcome = machine.wipe(NOON + day * DAY)
        retired.append(outcome.retired)
        assert not (machine.sysroot / "etc/lost").exists()
        assert (machine.sysroot / "etc/installed").exists()
        (machine.sysroot / "etc/lost").write_text(f"day {day}")
        (machine.sysroot / "etc/installed").unlink()
        machine.live()
    assert retired == [None, "2026-11-24T12-00-00Z", "2026-11-25T12-00-00Z"]
    assert machine.old() == retired[1:]
    lost = [
        (machine.folder / "old-uppers" / name / "etc/lost").read_text() for name in machine.old()
    ]
    assert lost == ["day 0", "day 1"]
    unmount(machine.sysroot)
    with InstalledRoot(machine) as top:
        assert sorted(os.listdir(top / "etc")) == ["installed"]


def test_seeds_from_the_newest_boot_complete_root(machine: Machine) -> None:
    """The whole root is the source: the installed root, without files that the layer has
    deleted.
    """
    seen = []

    def previous(path: str, complete: bool) -> None:
        seen.append((sorted(os.listdir(f"{path}/etc")), complete))
        with pytest.raises(OSError, match="Read-only"):
            Path(path, "etc/x").touch()

    machine.wipe(previous=previous)
    assert seen == []
    (machine.sysroot / "etc/declared").touch()
    (machine.sysroot / "etc/installed").unlink()
    machine.live()
    machine.wipe(NOON + 1, previous=previous)  # a boot that never completes
    (machine.sysroot / "etc/rubbish").touch()
    outcome = machine.wipe(NOON + 2, previous=previous)
    assert outcome.retired == "2026-11-23T12-00-02Z.unused"
    assert seen == [(["declared"], True), (["declared"], True)]


def test_changes_nothing_before_the_proof(machine: Machine) -> None:
    machine.wipe()
    machine.live()
    (machine.sysroot / "etc/precious").touch()
    unmount(machine.sysroot)

    def refuse(*_: object) -> None:
        raise Refused("no")

    reasons: list[dict[str, object]] = [
        {"prove": refuse}, {"previous": refuse}, {"request": STAMP}, {"volumes": {}},
    ]  # fmt: skip
    for reason in reasons:
        with pytest.raises(Refused):
            Overlay(machine.settings).wipe(machine.boot(NOON + 1, **reason))  # type: ignore[arg-type]
        machine.assert_nothing_mounted()
        assert machine.old() == []
        assert (machine.folder / "upper/etc/precious").exists()
    Overlay(machine.settings).wipe(machine.boot(NOON + 1, dry_run=True))
    machine.assert_nothing_mounted()
    assert machine.old() == []


def test_a_power_cut_after_each_step(machine: Machine) -> None:
    """The next boot has a fresh root, and the boot-complete one is in old-uppers."""
    machine.wipe()
    (machine.sysroot / "etc/lost").touch()
    machine.live()
    unmount(machine.sysroot)
    (machine.folder / "upper").rename(machine.folder / "old-uppers" / STAMP)  # cut: retired
    assert machine.wipe(NOON + 1).retired is None
    assert not (machine.sysroot / "etc/lost").exists()
    unmount(machine.sysroot)
    subprocess.run(
        ["setfattr", "-x", "trusted.ephemeroot.state", machine.folder / "upper"], check=True
    )
    assert machine.wipe(NOON + 2).retired == "2026-11-23T12-00-02Z.unused"  # cut: made, not marked
    (machine.folder / "old-uppers/.removing-2026-01-01T00-00-00Z/etc").mkdir(
        parents=True
    )  # pruning
    machine.wipe(NOON + 3)
    assert not [name for name in machine.old() if name.startswith(".")]


def test_does_not_remove_leftovers_of_another_system(machine: Machine) -> None:
    """A removal that its boot did not finish, overlayfs's own folder, and the present layer."""
    machine.wipe(system="0b" * 16)
    machine.live()
    unmount(machine.sysroot)
    (machine.folder / "old-uppers/.removing-2026-01-01T00-00-00Z/etc").mkdir(parents=True)
    before = sorted(str(path) for path in machine.folder.rglob("*"))
    for system in ("0a" * 16, ""):
        with pytest.raises(Refused, match="of another system"):
            machine.wipe(NOON + DAY, system=system)
        unmount(machine.sysroot)
        assert sorted(str(path) for path in machine.folder.rglob("*")) == before
    machine.wipe(NOON + DAY, system="0b" * 16)
    assert not [name for name in machine.old() if name.startswith(".")]


def test_retention_of_layers(machine: Machine) -> None:
    """As with btrfs: by age, never the last ones, never one marked .keep, never a foreign name."""
    machine.settings |= {"keep-days": 30, "keep-last": 1}
    machine.wipe()
    machine.live()
    old = machine.folder / "old-uppers"
    foreign = "2026-09-01T00-00-00Z.mine"
    names = ["2026-09-01T00-00-00Z", "2026-09-02T00-00-00Z.keep", "2026-11-20T00-00-00Z", foreign]
    for name in names:
        (old / name / "etc").mkdir(parents=True)
    (old / "2026-09-03T00-00-00Z").write_text("a file is no layer")
    (old / "2026-09-04T00-00-00Z").symlink_to("/")
    outcome = machine.wipe(NOON)
    assert outcome.pruned == ["2026-09-01T00-00-00Z"]
    assert outcome.problems == []
    assert set(machine.old()) == {
        *names[1:], "2026-09-03T00-00-00Z", "2026-09-04T00-00-00Z", STAMP,
    }  # fmt: skip


def test_little_space_deletes_the_oldest_layers_early(machine: Machine) -> None:
    """As with btrfs: below min-free the oldest are deleted one after the other, until enough is
    free.
    """
    machine.wipe()
    machine.live()
    old = machine.folder / "old-uppers"
    names = [f"2026-11-{day}T00-00-00Z" for day in (18, 19, 20, 21)]
    for name in names:
        (old / name).mkdir()
        (old / name / "large").write_bytes(os.urandom(3 << 20))
    os.sync()
    status = os.statvfs(old)
    free = status.f_bavail * status.f_frsize
    machine.settings |= {"keep-last": 2, "min-free": str(free + (5 << 20))}
    lines: list[str] = []
    assert machine.wipe(NOON, log=lines.append).pruned == names[:2]
    short = f"less than {amounts.size(free + (5 << 20))} free"
    assert [line for line in lines if line.startswith("delete old")] == [
        f"delete old root {name} ({short})" for name in names[:2]
    ]
    machine.settings |= {"min-free": "100%"}
    machine.live()
    # The last two boot-complete ones stay, however little space there is.
    assert machine.wipe(NOON + 1).pruned == names[2:]
    assert machine.old() == [STAMP, "2026-11-23T12-00-01Z"]


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_a_volume_without_space_for_a_new_layer(machine: Machine, rest: int) -> None:
    """Due layers are deleted to make room; if no layer is due, this is reported, and the root is
    still writable.
    """
    machine.settings |= {"keep-last": 0}
    machine.wipe()
    machine.live()
    unmount(machine.sysroot)
    due = machine.folder / "old-uppers/2026-01-01T00-00-00Z"
    due.mkdir()
    (due / "large").write_bytes(os.urandom(1 << 20))
    held = fill(machine.volume)
    for path in held[:rest]:
        path.rmdir()
    outcome = machine.wipe(NOON)
    assert outcome.pruned == [due.name]
    (machine.sysroot / "written").write_text("x")
    (machine.sysroot / "written").unlink()
    machine.live()
    fill(machine.volume)
    with pytest.raises(EphemerootError, match="no space for a new layer on the volume /persist"):
        machine.wipe(NOON + 1)
    assert not (machine.folder / "upper").exists()
    machine.assert_nothing_mounted()


def test_an_untrusted_clock_removes_nothing(machine: Machine) -> None:
    machine.settings |= {"keep-days": 30, "keep-last": 0}
    machine.wipe()
    machine.live()
    old = machine.folder / "old-uppers"
    (old / "2026-11-20T00-00-00Z").mkdir()
    outcome = machine.wipe(NOON + 4000 * DAY, synchronised=False)
    assert outcome.pruned == []
    assert outcome.retired is not None
    assert outcome.retired.endswith(".unsynced")
    assert "2026-11-20T00-00-00Z" in machine.old()


def test_leaves_pruning_to_the_next_boot_without_time(machine: Machine) -> None:
    machine.settings |= {"keep-days": 30, "keep-last": 0}
    machine.wipe()
    (machine.folder / "old-uppers/2026-01-01T00-00-00Z").mkdir()
    assert machine.wipe(NOON, budget=0.0).pruned == []
    assert "2026-01-01T00-00-00Z" in machine.old()
    assert machine.wipe(NOON + 1).pruned == ["2026-01-01T00-00-00Z"]


def test_files_that_cannot_be_removed_do_not_fail_the_wipe(machine: Machine) -> None:
    """The fresh root is already mounted. The clock of a machine without a battery gives the same
    names at each boot, also to layers that are still being removed.
    """
    machine.settings |= {"keep-days": 0, "keep-last": 0}
    machine.wipe()
    name = "2026-01-01T00-00-00Z"
    old = machine.folder / "old-uppers"
    stuck = old / f".removing-{name}"
    for folder in (stuck, old / name):
        (folder / "etc").mkdir(parents=True)
    subprocess.run(["mount", "--bind", machine.private, stuck / "etc"], check=True)
    outcome = machine.wipe(NOON + 1)
    assert name in outcome.pruned
    assert len(outcome.problems) == 1
    assert str(stuck.name) in outcome.problems[0]
    assert machine.old() == [stuck.name]
    subprocess.run(["umount", stuck / "etc"], check=True)
    assert machine.wipe(NOON + 2).problems == []
    assert machine.old() == []


def test_the_time_limit_applies_deep_in_a_layer(machine: Machine) -> None:
    machine.settings |= {"keep-days": 0, "keep-last": 0}
    machine.wipe()
    many = machine.folder / "old-uppers/.removing-2026-01-01T00-00-00Z/var/lib/many"
    many.mkdir(parents=True)
    (many / "0").touch()
    for number in range(1, 20000):
        os.link(many / "0", many / str(number))
    machine.wipe(NOON + 1, budget=0.005)
    assert many.exists()
    machine.wipe(NOON + 2)
    assert not many.exists()


def test_refuses_two_wipes_at_once(machine: Machine) -> None:
    layers = Uppers(str(machine.volume))
    try:
        with pytest.raises(Locked):
            machine.wipe()
    finally:
        layers.close()
    machine.wipe()


def test_refuses_a_folder_of_another_owner(machine: Machine) -> None:
    elsewhere = machine.base / "elsewhere"
    elsewhere.mkdir()
    machine.folder.symlink_to(elsewhere)
    with pytest.raises(Refused, match="is not a directory"):
        machine.wipe()
    machine.folder.unlink()
    machine.folder.mkdir()
    machine.folder.chmod(0o777)
    with pytest.raises(Refused, match="is writable by other users"):
        machine.wipe()
    assert list(elsewhere.iterdir()) == list(machine.folder.iterdir()) == []
    machine.assert_nothing_mounted()


def test_the_stage_mounts_the_overlay(machine: Machine) -> None:
    """With the entry point of a boot; the line of /etc/fstab for / is not applied to it later."""
    run = machine.base / "run/ephemeroot"
    wipe = Wipe(
        target="/",
        wiper="overlay",
        attribute="ephemeroot.wipers.overlay:Overlay",
        settings=machine.settings,
    )
    (run / "volumes").mkdir(parents=True)
    (run / "volumes/persistent").mkdir()
    subprocess.run(["mount", "--bind", machine.volume, run / "volumes/persistent"], check=True)
    volume = MountVolume(
        mount_point="/persistent", name="persistent", device=machine.device, type="ext4"
    )
    plan = machine.base / "plan.json"
    plan.write_bytes(Plan(wipe=[volume, wipe], persist=[]).dump())

    def stage(name: str, words: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "ephemeroot.hooks", name, "--plan", plan, "--run", run,
             "--target", machine.sysroot, "--cmdline", f"root={machine.device} ro {words}"],
            capture_output=True, text=True,
        )  # fmt: skip

    remount = machine.base / "run/systemd/system/systemd-remount-fs.service.d/ephemeroot.conf"
    try:
        kept = stage("wipe", "ephemeroot.wipe=no")
        assert kept.returncode == 0, kept.stderr
        machine.assert_nothing_mounted()
        assert not remount.exists()
        (run / "wiped").unlink()
        done = stage("wipe")
        assert done.returncode == 0, done.stderr
        assert (machine.sysroot / "etc/installed").exists()
        assert remount.read_text() == f"[Unit]\nConditionPathExists=!{run}/wiped\n"
        persisted = stage("persist")
        assert persisted.returncode == 0, persisted.stderr
    finally:
        unmount(run / "volumes/persistent")


# The configuration

ROOT = '[root]\nwiper = "overlay"\n[root.overlay]\n'
VOLUME = f"""\
[[volumes]]
mount-point = "/persistent"
device = "{DEVICE}"
type = "ext4"
"""


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    made = MachineTree(tmp_path / "tree", None)
    made.write("etc/fstab", "/dev/mapper/vg-root / ext4 errors=remount-ro 0 1\n")
    return made


def configure(tree: MachineTree, lines: str, volume: str = VOLUME) -> None:
    tree.write("etc/ephemeroot/ephemeroot.toml", ROOT + lines + "\n" + volume + STORE)


def test_needs_no_volume_for_usr(tree: MachineTree) -> None:
    configure(tree, 'keep-last = 5\nvolume = "/persistent"')
    assert tree.errors() == []
    wipe = next(o for o in tree.plan().wipe if isinstance(o, Wipe))
    assert wipe.describe() == (
        "make / fresh: a new overlay over the device of root=, read-only, with a layer on "
        "/persistent, old layers are kept for 30 days, the last 5 whatever their age"
    )
    configure(tree, "")
    wipe = next(o for o in tree.plan().wipe if isinstance(o, Wipe))
    assert wipe.describe().endswith("read-only, with a layer in memory")


@pytest.mark.parametrize(
    ("lines", "volume", "complaint"),
    [
        ('volume = "/data"', VOLUME, "/data is not a volume"),
        ('volume = "data"', VOLUME, "is not an absolute path"),
        ('volume = "/tmp"', VOLUME + '[[volumes]]\nmount-point = "/tmp"\ndevice = "t"\n'
         'type = "tmpfs"\n', "cannot keep layers on /tmp"),
        ('volume = "/mnt"', VOLUME + '[[volumes]]\nmount-point = "/mnt"\ndevice = "LABEL=x"\n'
         'type = "ext4"\noptions = ["ro"]\n', "cannot keep layers on /mnt"),
        ('volume = "/persistent"\nsize = "1G"', VOLUME, "for a layer in memory"),
    ],
)  # fmt: skip
def test_reports_mistakes_in_the_table(
    tree: MachineTree, lines: str, volume: str, complaint: str
) -> None:
    configure(tree, lines, volume)
    assert complaint in tree.complaint()


def test_refuses_a_volume_that_is_mounted_too_late(tree: MachineTree) -> None:
    late = '[[volumes]]\nmount-point = "/late"\ndevice = "LABEL=x"\ntype = "ext4"\n'
    configure(tree, 'volume = "/late"', VOLUME + late + "needed-for-boot = false\n")
    assert "/late is not needed for boot" in tree.complaint()


def test_contents_of_the_image(tree: MachineTree, tmp_path: Path) -> None:
    tree.write("etc/fstab", "LABEL=root / xfs defaults 0 0\n")
    configure(tree, 'type = "xfs"\nvolume = "/persistent"')
    contents = put_together(tmp_path / "image", tree.plan().dump(), DracutTarget())
    assert contents.reason is None
    assert {"overlay", "xfs", "ext4"} <= set(contents.modules)
    names = [contents.tree.name(path) for path in contents.tree.files()]
    assert "/usr/lib/systemd/system/sysroot.mount.d/ephemeroot.conf" in names
