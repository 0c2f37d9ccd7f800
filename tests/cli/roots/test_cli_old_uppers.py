"""``ephemeroot roots`` and ``diff`` for overlay roots and roots in memory: the program itself."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import programs
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mounts
from ephemeroot.wipers import marks
from ephemeroot.wipers.tmpfs import Tmpfs
from mounting import unmount
from overlay_machine import DAY, NOON, InstalledRoot, Machine, overlay_machine

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

# Other days than those of test_upper_history.py: a mounted old upper is recognised by its name in
# every mount namespace, and the tests run in parallel.
MORNING = NOON - 7 * DAY
STEM = "2026-11-17T12-00-00Z"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"


def plan(machine: Machine, wiper: str, attribute: str) -> bytes:
    return Plan(
        wipe=[
            MountVolume(
                mount_point="/persistent", name="persistent", device="LABEL=none", type="ext4"
            ),
            Store(path="/persistent", volume="persistent", id=IDENTITY),
            Wipe(target="/", wiper=wiper, attribute=attribute, settings=machine.settings),
        ],
        persist=[Attach(mount_point="/persistent", volume="persistent")],
    ).dump()  # fmt: skip


class Booted:
    """An overlay machine with its store mounted below its root."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.root = machine.sysroot
        with InstalledRoot(machine) as top:
            for name in ("etc/ephemeroot", "etc/kernel", "persistent", "var/lib"):
                (top / name).mkdir(parents=True, exist_ok=True)
            (top / "etc/kernel/cmdline").write_text(f"root={machine.device} ro\n")
            attribute = "ephemeroot.wipers.overlay:Overlay"
            (top / "etc/ephemeroot/plan.json").write_bytes(plan(machine, "overlay", attribute))

    def boot(self, now: float) -> None:
        unmount(self.root)
        self.machine.wipe(now)
        self.machine.live()
        where = self.root / "persistent"
        subprocess.run(["mount", "--bind", self.machine.volume, where], check=True)

    def call(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return programs.run("--root", self.root, *words)

    def json(self, *words: str | Path) -> Any:
        done = self.call(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def differences(self, *words: str) -> dict[str, str]:
        return {d["path"]: d["change"] for d in self.json(*words)["differences"]}


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Booted]:
    """The second boot, with an old upper of the first."""
    with overlay_machine(tmp_path) as machine:
        booted = Booted(machine)
        booted.boot(MORNING)
        (booted.root / "etc/lost").write_text("lost\n")
        os.chown(booted.root / "etc/lost", 7, 8)
        (booted.root / "etc/installed").unlink()
        (booted.root / "var/lib/app").mkdir()
        (booted.root / "var/lib/app/data").write_bytes(b"x" * 5000)
        booted.boot(MORNING + DAY)
        yield booted


def test_lists_and_keeps_old_uppers(booted: Booted) -> None:
    (found,) = booted.json("roots", "list")["histories"]
    assert found["old-roots"] == "ephemeroot-overlay/old-uppers"
    assert [entry["name"] for entry in found["entries"]] == [STEM]
    shown = booted.json("roots", "show", STEM)
    assert (shown["made"], shown["retired"], shown["age"]) == (MORNING, MORNING + DAY, DAY)
    assert shown["exclusive"] >= 5000
    assert booted.call("roots", "keep", STEM).returncode == 0
    assert booted.call("roots", "delete", STEM, "--yes").returncode == 1
    assert booted.call("roots", "unkeep", STEM).returncode == 0
    assert booted.call("next-boot", "root", STEM).returncode != 0
    assert booted.call("roots", "delete", STEM, "--yes").returncode == 0
    assert booted.machine.old() == []


def test_restores_from_an_old_upper(booted: Booted) -> None:
    done = booted.call("roots", "restore", "/etc/lost", "/var/lib/app", "--from", STEM)
    assert done.returncode == 0, done.stderr
    assert (booted.root / "etc/lost").read_text() == "lost\n"
    assert (booted.root / "etc/lost").stat().st_uid == 7
    assert (booted.root / "var/lib/app/data").stat().st_size == 5000
    assert (booted.root / "etc/installed").exists()
    gone = booted.call("roots", "restore", "/etc/installed", "--from", STEM)
    assert gone.returncode == 2, "it was deleted there: a whiteout is not a file"
    below = booted.call("roots", "restore", "/usr/lib/os-release", "--from", STEM)
    assert below.stdout == "nothing to restore: all files are identical\n"


def test_restoring_a_containers_storage(tmp_path: Path) -> None:
    """The installed root has whiteouts and an opaque directory of a container, which the overlay
    takes for its own. A copy elsewhere has them; one on an overlay cannot, and each is named.
    """
    opaque = "trusted.overlay.opaque"
    with overlay_machine(tmp_path) as machine:
        booted = Booted(machine)
        diff = "var/lib/docker/overlay2/one/diff"
        with InstalledRoot(machine) as top:
            for name in ("merged", "untouched", "opaque"):
                (top / diff / name).mkdir(parents=True)
                (top / diff / name / "file").write_text("of the installer")
                os.mknod(top / diff / name / "gone", stat.S_IFCHR, os.makedev(0, 0))
            os.setxattr(top / diff / "opaque", opaque, b"y")
        booted.boot(MORNING)
        for name in ("merged", "opaque"):
            (booted.root / diff / name / "file").write_text("of the layer")
        booted.boot(MORNING + DAY)
        words = ("roots", "restore", "/var/lib/docker", "--from", STEM)
        (tmp_path / "to").mkdir()
        done = booted.call(*words, "--to", tmp_path / "to")
        assert done.returncode == 0, done.stderr
        found = tmp_path / "to" / diff.removeprefix("var/lib/")
        for name in ("merged", "untouched", "opaque"):
            status = (found / name / "gone").lstat()
            assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0), name
            text = "of the installer" if name == "untouched" else "of the layer"
            assert (found / name / "file").read_text() == text
        assert os.getxattr(found / "opaque", opaque) == b"y"
        (booted.root / diff / "merged/new").mkdir()  # else the kernel removes no whiteout there
        subprocess.run(["rm", "-r", booted.root / diff / "merged"], check=True)
        done = booted.call(*words)
        assert done.returncode == 10, done
        assert f"/{diff}/merged/gone is not restored" in done.stderr
        assert (booted.root / diff / "merged/file").read_text() == "of the layer"
        unmount(booted.root)


def test_mounts_an_old_upper(booted: Booted, tmp_path: Path) -> None:
    where = tmp_path / "old"
    where.mkdir()
    done = booted.call("roots", "mount", STEM, where)
    assert done.returncode == 0, done.stderr
    try:
        assert sorted(os.listdir(where / "etc")) == ["ephemeroot", "kernel", "lost"]
        refused = booted.call("roots", "delete", STEM, "--yes")
        assert "is mounted" in refused.stderr
    finally:
        subprocess.run(["umount", where], check=True)


def test_compares_with_an_old_upper(booted: Booted) -> None:
    assert booted.differences("diff") == {}
    (booted.root / "etc/new").touch()
    (booted.root / "etc/installed").write_text("changed")
    (booted.root / "usr/lib/os-release").unlink()
    expected = {"/etc/new": "added", "/etc/installed": "changed", "/usr/lib/os-release": "deleted"}
    assert booted.differences("diff") == expected
    assert booted.differences("diff", "--content") == expected, "by a walk"
    assert booted.differences("diff", "--against", "base") == expected
    assert booted.differences("roots", "diff", STEM) == {
        **expected, "/etc/installed": "added", "/etc/lost": "deleted", "/var/lib/app": "deleted",
    }  # fmt: skip


def test_prunes_old_uppers(booted: Booted) -> None:
    booted.machine.settings = booted.machine.settings | {"keep-days": 0, "keep-last": 0}
    attribute = "ephemeroot.wipers.overlay:Overlay"
    applied = booted.root / "etc/ephemeroot/plan.json"
    applied.write_bytes(plan(booted.machine, "overlay", attribute))
    done = booted.call("roots", "prune", "--yes")
    assert done.returncode == 0, done.stderr
    assert booted.machine.old() == []


@pytest.mark.parametrize("by", ["the root below", "the system"])
def test_lists_foreign_layers_and_never_changes_them(
    booted: Booted, by: str, tmp_path: Path
) -> None:
    """Layers of another installed root, or of another system, with every verb that takes the name
    of an old root.
    """
    settings = booted.machine.settings | {"keep-days": 0, "keep-last": 0, "min-free": "99%"}
    booted.machine.settings = settings
    attribute = "ephemeroot.wipers.overlay:Overlay"
    (booted.root / "etc/ephemeroot/plan.json").write_bytes(
        plan(booted.machine, "overlay", attribute)
    )
    folder = booted.machine.folder
    place = folder / "old-uppers" / STEM if by == "the root below" else folder
    fd = os.open(place, os.O_RDONLY)
    try:
        if by == "the root below":
            marks.set_state(fd, "0d1e2f3a-0000-4000-8000-000000000009", marks.BOOT_COMPLETE)
        else:
            marks.set_system(fd, "another")
    finally:
        os.close(fd)
    before = layers(folder / "old-uppers")
    (found,) = booted.json("roots", "list")["histories"]
    assert [(one["name"], one["kind"]) for one in found["entries"]] == [(STEM, "foreign")]
    assert "not made by ephemeroot: never deleted" in booted.call("roots", "list").stdout
    assert booted.json("roots", "show", STEM)["kind"] == "foreign"
    for words in (
        ("roots", "diff", STEM), ("roots", "keep", STEM),
        ("roots", "unkeep", STEM), ("roots", "delete", STEM, "--yes"),
        ("roots", "mount", STEM, tmp_path), ("roots", "restore", "/etc/lost", "--from", STEM),
        ("next-boot", "root", STEM), ("diff", "--against", STEM),
    ):  # fmt: skip
        done = booted.call(*words)
        assert done.returncode in (1, 2), (words, done)
        assert "Traceback" not in done.stderr
    booted.call("roots", "prune", "--yes")
    assert not (booted.root / "etc/lost").exists()
    assert layers(folder / "old-uppers") == before


ADOPTING = """\
[root]
wiper = "overlay"
external-boot = true
[root.overlay]
volume = "/persistent"
[[volumes]]
mount-point = "/persistent"
device = "UUID=3c2a1b0e-0000-4000-8000-000000000001"
type = "ext4"
[persistence."/persistent"]
directories = ["/srv/other"]
"""


CONFIGURED = """\
on-package-change = "{policy}"
[root]
wiper = "overlay"
[persistence."/persistent"]
files = ["/etc/kept"]
"""


@pytest.mark.parametrize("policy", ["warn", "redirect"])
def test_packages_of_the_layer_are_forgotten_and_those_of_the_installed_root_are_not(
    booted: Booted, policy: str
) -> None:
    """An upgrade belongs in a boot of the installed root (next-boot keep)."""
    unmount(booted.root)
    with InstalledRoot(booted.machine) as top:
        configuration = top / "etc/ephemeroot/ephemeroot.toml"
        configuration.write_text(CONFIGURED.format(policy=policy))
        assert programs.run("--root", top, "package-change", "before").returncode == 0
        after = programs.run("--root", top, "package-change", "after")
        assert (after.returncode, after.stderr) == (0, "")
    booted.boot(MORNING + 2 * DAY)
    before = booted.call("package-change", "before")
    assert before.returncode == (10 if policy == "redirect" else 0)
    after = booted.call("package-change", "after")
    assert "the next boot forgets this change of packages" in after.stderr
    assert "ephemeroot next-boot keep" in after.stderr


@pytest.mark.parametrize("hidden", ["nothing", "whiteout", "opaque directory", "removed since"])
def test_adopt_refuses_files_that_the_overlay_shows_differently(
    booted: Booted, hidden: str
) -> None:
    storage = "srv/containers/overlay2/one"
    unmount(booted.root)
    with InstalledRoot(booted.machine) as top:
        (top / storage / "diff").mkdir(parents=True)
        (top / storage / "diff/file").write_text("x")
        (top / "etc/ephemeroot/ephemeroot.toml").write_text(ADOPTING)
        if hidden == "opaque directory":
            os.setxattr(top / storage / "diff", "trusted.overlay.opaque", b"y")
        elif hidden != "nothing":
            os.mknod(top / storage / "diff/gone", stat.S_IFCHR, os.makedev(0, 0))
    marker = {"version": 1, "id": IDENTITY, "path": "/persistent"}
    (booted.machine.volume / ".ephemeroot-store").write_text(json.dumps(marker))
    booted.boot(MORNING + 2 * DAY)
    if hidden == "removed since":
        subprocess.run(["rm", "-r", "-f", booted.root / storage], check=True)
        (booted.root / storage).mkdir()
    done = booted.call("adopt", "/srv/containers", "--yes")
    there = booted.machine.volume / "srv/containers/overlay2"
    if hidden in ("nothing", "removed since"):
        assert done.returncode == 0, done.stderr
        assert (there / "one/diff/file").exists() == (hidden == "nothing")
        return
    assert done.returncode == 1, done
    assert f"{hidden} " in done.stderr
    assert "'ephemeroot apply' and reboot" in done.stderr
    assert not there.exists()


def layers(top: Path) -> list[tuple[str, int, int]]:
    """Every entry below *top*, with the values that a write would change."""
    found = [top, *sorted(top.rglob("*"))]
    return [(str(path), path.lstat().st_ino, path.lstat().st_mtime_ns) for path in found]


def test_diff_of_a_root_in_memory(booted: Booted) -> None:
    """Everything except the skeleton is lost."""
    unmount(booted.root)
    machine = booted.machine
    machine.settings = {option.name: option.default for option in Tmpfs.OPTIONS}
    mounts.attach_at(mounts.create("tmpfs", "tmpfs", []), str(booted.root))
    for name in ("etc/ephemeroot", "var/lib/app", "persistent", "proc", "usr/bin"):
        (booted.root / name).mkdir(parents=True)
    (booted.root / "bin").symlink_to("usr/bin")
    applied = booted.root / "etc/ephemeroot/plan.json"
    applied.write_bytes(plan(machine, "tmpfs", "ephemeroot.wipers.tmpfs:Tmpfs"))
    (booted.root / "var/lib/app/data").write_bytes(bytes(100))
    found = booted.differences("diff")
    assert found == {"/etc/ephemeroot": "added", "/usr/bin": "added", "/var/lib/app": "added"}
    assert booted.call("diff", "--against", STEM).returncode == 2
    assert booted.call("roots", "list").stdout == "no wiper of this machine keeps old roots\n"
    assert booted.call("roots", "show", STEM).returncode == 2
