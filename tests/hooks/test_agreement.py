"""`check` and the two stages agree: an accepted configuration boots and keeps what is declared, a
refused one does not, or does harm.

One corpus of configurations is examined and, whatever `check` says, compiled and booted twice with
the base upgraded in between: each wiper, kind of volume and method, and variants that are wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import btrfsutil
import pytest

import proof
from btrfs_image import loop_device
from ephemeroot.config import Examination, examine, read
from ephemeroot.hooks.__main__ import main as entry
from ephemeroot.plan.compile import compile_examination
from machine_tree import IDENTITY, MAIN, MachineTree
from overlay_machine import mount, unmount

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

BTRFS = '[root]\nwiper = "btrfs"\n[root.btrfs]\nbase = "root-base"\n'
OVERLAY = '[root]\nwiper = "overlay"\n[root.overlay]\n'
TMPFS = '[root]\nwiper = "tmpfs"\n[root.tmpfs]\n'
USR = (
    '[[volumes]]\nmount-point = "/usr"\ndevice = "{root}"\ntype = "btrfs"\n'
    'options = ["subvol=usr", "ro"]\n'
)
ROOTS = {"btrfs": BTRFS, "overlay": OVERLAY, "layers": OVERLAY + 'volume = "/persistent"\n',
         "tmpfs": TMPFS}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A configuration: ``root`` is one of ROOTS, ``more`` is added to its table. The store is on a
    volume of that ``kind``, mounted with ``options``. ``method`` is of a directory and a file that
    are declared, ``paths`` are further directories; ``volumes`` are added.
    """

    root: str
    kind: str = "ext4"
    method: str = "bind"
    more: str = ""
    options: str = ""
    type: str = ""
    paths: tuple[str, ...] = ()
    volumes: str = ""

    @property
    def points(self) -> list[str]:
        """The mount points of the volumes that are added."""
        lines = [line.partition(" = ") for line in self.volumes.splitlines()]
        return [value.strip('"') for key, _, value in lines if key == "mount-point"]

    @property
    def name(self) -> str:
        words = (self.more, self.options, self.type, *self.paths, self.volumes)
        told = "".join(c if c.isalnum() else "-" for c in "".join(words))[:40]
        return f"{self.root}-{self.kind}-{self.method}{told}"

    def text(self, root: str, volume: str) -> str:
        options = [f'"{word}"' for word in self.options.split(",") if word]
        if self.kind == "btrfs":
            options.append('"subvol=persistent"')
        store = (
            f'[[volumes]]\nmount-point = "/persistent"\ndevice = "{volume}"\n'
            f'type = "{self.type or self.kind}"\noptions = [{", ".join(options)}]\n'
        )
        directory = "bind" if self.method == "copy" else self.method
        file = "auto" if self.method == "overlay" else self.method
        listed = "".join(f', "{path}"' for path in self.paths)
        return (
            ROOTS[self.root]
            + self.more
            + "\n"
            + (USR.format(root=root) if self.root == "tmpfs" else "")
            + store
            + self.volumes.format(root=root, volume=volume)
            + '[persistence."/persistent"]\ndirectories = ['
            + f'{{ directory = "/srv/data", method = "{directory}" }}{listed}]\n'
            + f'files = ["/etc/machine-id", {{ file = "/etc/app.conf", method = "{file}" }}]\n'
        )


SOUND = [
    Case(root, kind, method)
    for root in ROOTS
    for kind in ("ext4", "btrfs")
    for method in ("bind", "symlink", "copy", "overlay")
]
WIPED = (
    '[[volumes]]\nmount-point = "{point}"\ndevice = "{{root}}"\ntype = "btrfs"\n'
    'options = ["subvol=wiped"{more}]\nwipe = {{{{ wiper = "btrfs", old-roots = "old_wiped" }}}}\n'
)


def wiped(point: str, more: str = "") -> str:
    return WIPED.format(point=point, more=more)


DIRECTORY = (
    '[[volumes]]\nmount-point = "/opt"\ndevice = "{{root}}"\ntype = "ext4"\n'
    'options = ["X-mount.subdir={of}"]\n'
)
DIRECTORIES = [
    Case(root, volumes=DIRECTORY.format(of=of))
    for root in ("overlay", "layers")
    for of in ("opt", "/home/", "usr/local", "missing", "etc/app.conf")
]
"""Directories of a filesystem as volumes, of the installed root's own for the overlays."""

ODD = [
    *(Case(root, options="ro") for root in ROOTS),
    *(Case(root, kind, type=kind_) for root in ROOTS
      for kind, kind_ in (("ext4", "xfs"), ("btrfs", "ext4"))),
    *(Case(root, "vfat") for root in ROOTS),
    *(Case(root, paths=(path,)) for root in ("btrfs", "overlay", "layers")
      for path in ("/usr/bin", "/usr/libexec", "/usr/lib/modules", "/opt", "/usr/local")),
    *(Case(root, paths=(path,)) for root in ("btrfs", "overlay", "layers")
      for path in ("/boot", "/usr/sbin", "/usr/share", "/bin", "/var", "/tmp", "/srv",
                   "/etc/ephemeroot")),
    *(Case("tmpfs", more=more) for more in (
        'size = "1K"', 'size = "64M"', 'nr-inodes = 10', 'nr-inodes = 16', 'nr-inodes = "10K"',
        'mode = "0000"', 'mode = "0700"', 'mode = "0711"', 'mode = "0755"')),
    *(Case("overlay", more=more) for more in ('size = "1K"', 'size = "16M"', 'type = "xfs"',
                                               'type = "btrfs"', 'type = "ext3"')),
    *(Case("btrfs", volumes=wiped(point))
      for point in ("/home", "/usr", "/usr/lib", "/sbin", "/opt")),
    Case("btrfs", volumes=wiped("/home", ', "ro"')),
    Case("btrfs", volumes=wiped("/home"), paths=("/home/kept",)),
    Case("btrfs", volumes=wiped("/srv/data")),
    Case("overlay", more='volume = "/layers"',
         volumes='[[volumes]]\nmount-point = "/layers"\ndevice = "{root}"\ntype = "ext4"\n'),
    Case("overlay", more='volume = "/layers"', volumes=DIRECTORY.format(of="home").replace(
        '"/opt"', '"/layers"')),
    Case("overlay", more='volume = "/layers"',
         volumes='[[volumes]]\nmount-point = "/layers"\ndevice = "none"\ntype = "tmpfs"\n'),
]  # fmt: skip


class Site:
    """A machine with the filesystem of the root on one device, and the store's on another."""

    def __init__(self, base: Path, case: Case, root: str, volume: str) -> None:
        self.base = base
        self.case = case
        self.root, self.volume = root, volume
        self.has_btrfs = case.root in ("btrfs", "tmpfs")
        self.sysroot = base / "sysroot"
        self.run = base / "run/ephemeroot"
        self.tree = MachineTree(base / "tree", None)
        self.tree.write(MAIN, case.text(root, volume))
        kind = "btrfs subvol=root" if self.has_btrfs else "ext4 defaults"
        line = "" if case.root == "tmpfs" else f"{root} / {kind} 0 0\n"
        self.tree.write("etc/fstab", line)
        beside = ("opt", "home", "usr/local", "usr/bin", "usr/sbin", "usr/share", "boot", "var",
                  "tmp", "srv/data")  # fmt: skip
        for name in beside:  # as `fill` makes them
            (base / "tree" / name).mkdir(parents=True, exist_ok=True)
        words = {"btrfs": f"root={root} rootflags=subvol=root", "tmpfs": "root=tmpfs"}
        self.line = words.get(case.root, f"root={root}") + " ro"
        self._make_root()
        self._make_store()

    def _make_root(self) -> None:
        subprocess.run(["mkfs.btrfs" if self.has_btrfs else "mkfs.ext4", "-q", self.root],
                       check=True)  # fmt: skip
        with self.mounted(self.root) as top:
            if not self.has_btrfs:
                fill(top)
                return
            for name in ("root-base", "usr", "wiped"):
                btrfsutil.create_subvolume(str(top / name))
            fill(top / "root-base")
            shutil.copytree(top / "root-base/usr", top / "usr", dirs_exist_ok=True, symlinks=True)
            btrfsutil.create_snapshot(str(top / "root-base"), str(top / "root"))

    def _make_store(self) -> None:
        subprocess.run([f"mkfs.{self.case.kind}", *(["-q"] if self.case.kind != "vfat" else []),
                        self.volume], check=True, capture_output=True)  # fmt: skip
        if self.case.kind == "vfat":
            return
        with self.mounted(self.volume) as top:
            store = top
            if self.case.kind == "btrfs":
                store = top / "persistent"
                btrfsutil.create_subvolume(str(store))
            marker = {"version": 1, "id": IDENTITY, "path": "/persistent"}
            (store / ".ephemeroot-store").write_text(json.dumps(marker))
            if self.case.root == "tmpfs":  # there is nothing to seed from
                (store / "etc").mkdir()
                (store / "etc/app.conf").write_text("of the store")

    @contextmanager
    def mounted(self, device: str) -> Iterator[Path]:
        where = self.base / "top"
        mount(device, where)
        try:
            yield where
        finally:
            unmount(where)

    def examination(self) -> Examination:
        """As for the running machine, whose devices can be looked at."""
        machine = replace(self.tree.machine, live=True, root_mount=None)
        return examine(read(machine), machine)

    def boot(self) -> bool:
        """Whether both stages end as they should."""
        unmount(self.sysroot)
        for place in (self.run / "volumes").glob("*"):
            unmount(place)
        shutil.rmtree(self.base / "run", ignore_errors=True)
        self.sysroot.mkdir(exist_ok=True)
        examination = self.examination()
        plan = compile_examination(replace(examination, problems=())).plan
        (self.base / "plan.json").write_bytes(plan.dump())
        where = ["--plan", str(self.base / "plan.json"), "--target", str(self.sysroot)]
        where += ["--run", str(self.run), "--cmdline", self.line]
        if entry(["wipe", *where]) != 0:
            return False
        if not os.path.ismount(self.sysroot):
            mount(self.root, self.sysroot, "-o", "subvol=root,ro")
        return entry(["persist", *where]) == 0

    def inside(self, path: str) -> Path:
        """The declared *path*, also where a link of the root leads into the store."""
        place = self.sysroot / path
        return self.sysroot / os.readlink(place).strip("/") if place.is_symlink() else place

    def upgrade(self) -> None:
        """A new program and a new kernel in the base."""
        unmount(self.sysroot)
        for place in (self.run / "volumes").glob("*"):
            unmount(place)
        with self.mounted(self.root) as top:
            for usr in ("root-base/usr", "usr"):
                for folder in ("bin", "sbin", "libexec", "lib/modules"):
                    if (top / usr / folder).is_dir():
                        (top / usr / folder / "upgraded").touch()
            for base in (top, top / "root-base"):
                if (base / "boot").is_dir():
                    (base / "boot/upgraded").touch()

    def is_sound(self) -> bool:
        """Whether the booted root can run a system, and the base cannot be written to."""
        root = self.sysroot
        space = os.statvfs(root)
        if space.f_bavail * space.f_frsize < 1 << 20 or 0 < space.f_files < 500:
            return False
        if root.stat().st_mode & 0o111 != 0o111 or not os.access(root / "sbin/init", os.X_OK):
            return False
        points = [root / "persistent", root / "layers"]
        return not any((point / "usr/lib/os-release").exists() for point in points)


def fill(root: Path) -> None:
    for name in ("etc", "usr/lib/modules", "usr/lib/systemd", "usr/bin", "usr/sbin", "usr/libexec",
                 "usr/share", "boot", "var", "tmp", "usr/local", "srv/data", "persistent", "home",
                 "opt", "run"):  # fmt: skip
        (root / name).mkdir(parents=True)
    (root / "layers").mkdir()
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/lib/os-release").write_text("ID=test\n")
    for name in ("usr/sbin/init", "usr/lib/systemd/systemd"):
        (root / name).write_text("#!/bin/sh\n")
        (root / name).chmod(0o755)
    (root / "etc/app.conf").write_text("of the base\n")
    (root / "srv/data/seed").write_text("of the base\n")


def boots(site: Site) -> bool:
    """Whether two boots are sound, keep what is declared and show what the base got in between."""
    if not site.boot() or not site.is_sound():
        return False
    root, name = site.sysroot, f"diary of {site.case.name}"
    (site.inside("srv/data") / "diary").write_text(name)
    subprocess.run(["mount", "-o", "remount,rw", root], check=False)
    (root / "lost").touch()
    for path in (*site.case.paths, *site.case.points):
        try:
            (root / path[1:] / "diary").write_text(name)
        except OSError:
            return False
    site.upgrade()
    if not site.boot() or not site.is_sound() or (root / "lost").exists():
        return False
    if (site.inside("srv/data") / "diary").read_text() != name:
        return False
    if any((root / path[1:] / "diary").read_text() != name for path in site.case.paths):
        return False
    for old in root.glob("*/ephemeroot-overlay/old-uppers"):
        if not list(old.iterdir()):
            return False
    folders = ["usr/bin", "usr/sbin", "usr/libexec", "usr/lib/modules"]
    folders += ["boot"] if site.case.root != "tmpfs" else []
    return all((root / folder / "upgraded").exists() for folder in folders)


@contextmanager
def site_of(base: Path, case: Case) -> Iterator[Site]:
    with loop_device(base / "r.img", 128) as root, loop_device(base / "v.img", 128) as volume:
        site = Site(base, case, root, volume)
        try:
            yield site
        finally:
            unmount(site.sysroot)
            for place in (site.run / "volumes").glob("*"):
                unmount(place)


@pytest.mark.parametrize(
    "case",
    [*proof.sample(SOUND, 2), *proof.sample(ODD, 3, seed=1), *proof.sample(DIRECTORIES, 1)],
    ids=lambda case: case.name,
)
def test_check_and_boot_agree(tmp_path: Path, case: Case) -> None:
    with site_of(tmp_path, case) as site:
        errors = [str(problem) for problem in site.examination().errors]
        assert boots(site) == (errors == []), errors
        if case in SOUND:
            assert errors == []
