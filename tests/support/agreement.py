"""Machines whose configuration is checked and then booted, whatever `check` reports.

`Case` is a configuration, `Site` a machine with it, and `boots` the result of two boots with an
upgrade of the base in between. This module does not need pytest: the guests of vm-tests import it,
for roots on ZFS (vm-tests/zfs_agreement.py).
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

from complete_boot import mark_boot_complete
from ephemeroot.cli import copyback
from ephemeroot.config import Examination, examine, read
from ephemeroot.hooks.__main__ import main as entry
from ephemeroot.hooks.plan import Plan
from ephemeroot.plan.compile import compile_examination
from loop_device import attached
from machine_tree import IDENTITY, MAIN, MachineTree
from mounting import mount, unmount

BTRFS = '[root]\nwiper = "btrfs"\n[root.btrfs]\nbase = "root-base"\n'
OVERLAY = '[root]\nwiper = "overlay"\n[root.overlay]\n'
TMPFS = '[root]\nwiper = "tmpfs"\n[root.tmpfs]\n'
ZFS = '[root]\nwiper = "zfs"\n[root.zfs]\n'
USR = (
    '[[volumes]]\nmount-point = "/usr"\ndevice = "{root}"\ntype = "btrfs"\n'
    'options = ["subvol=usr", "ro"{usr}]\n'
)
ROOTS = {"btrfs": BTRFS, "overlay": OVERLAY, "layers": OVERLAY + 'volume = "/persistent"\n',
         "tmpfs": TMPFS, "zfs": ZFS,
         "zfs-rotated": ZFS + 'mode = "rotate"\nbase = "cases/ROOT/base"\n'}  # fmt: skip
ROOT = "cases/ROOT/root"
"""A root on ZFS, in a pool that the tests make."""

SIZE = 320 << 20  # the minimum of mkfs.xfs
METHODS = ("bind", "symlink", "copy", "overlay")


@dataclass(frozen=True)
class Case:
    """A configuration: ``root`` is one of ROOTS, ``more`` is added to its table. The store is on a
    volume of that ``kind``, mounted with ``options``. ``method`` is that of a declared directory
    and a declared file, ``paths`` are further directories and ``overlays`` those with that method;
    ``volumes`` are added. ``device`` replaces the store's; ``usr`` is a mount
    option of the volume /usr of a tmpfs.
    """

    root: str
    kind: str = "ext4"
    method: str = "bind"
    more: str = ""
    options: str = ""
    type: str = ""
    paths: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    volumes: str = ""
    device: str = ""
    usr: str = ""

    @property
    def points(self) -> list[str]:
        """The mount points of the added volumes."""
        lines = [line.partition(" = ") for line in self.volumes.splitlines()]
        return [value.strip('"') for key, _, value in lines if key == "mount-point"]

    @property
    def name(self) -> str:
        words = (self.more, self.options, self.type, *self.paths, *self.overlays, self.volumes,
                 self.device, self.usr)  # fmt: skip
        told = "".join(c if c.isalnum() else "-" for c in "".join(words))[:40]
        return f"{self.root}-{self.kind}-{self.method}{told}"

    def text(self, root: str, volume: str) -> str:
        options = [f'"{word}"' for word in self.options.split(",") if word]
        if self.kind == "btrfs":
            options.append('"subvol=persistent"')
        store = (
            f'[[volumes]]\nmount-point = "/persistent"\ndevice = "{self.device or volume}"\n'
            f'type = "{self.type or self.kind}"\noptions = [{", ".join(options)}]\n'
        )
        usr = f', "{self.usr}"' if self.usr else ""
        directory = "bind" if self.method == "copy" else self.method
        file = "auto" if self.method == "overlay" else self.method
        listed = "".join(f', "{path}"' for path in self.paths)
        listed += "".join(
            f', {{ directory = "{path}", method = "overlay" }}' for path in self.overlays
        )
        return (
            ROOTS[self.root]
            + self.more
            + "\n"
            + (USR.format(root=root, usr=usr) if self.root == "tmpfs" else "")
            + store
            + self.volumes.format(root=root, volume=volume)
            + '[persistence."/persistent"]\ndirectories = ['
            + f'{{ directory = "/srv/data", method = "{directory}" }}{listed}]\n'
            + f'files = ["/etc/machine-id", {{ file = "/etc/app.conf", method = "{file}" }}]\n'
        )


class Site:
    """A machine with the filesystem of the root on one device, and the store's on another."""

    def __init__(self, base: Path, case: Case, root: str, volume: str) -> None:
        self.base = base
        self.case = case
        self.root, self.volume = root, volume
        self.has_btrfs = case.root in ("btrfs", "tmpfs")
        self.is_on_device = case.root in ("btrfs", "overlay", "layers")
        self.sysroot = base / "sysroot"
        self.run = base / "run/ephemeroot"
        self.line = self.command_line()
        self.tree = MachineTree(base / "tree", None)
        self.tree.write(MAIN, case.text(root, volume))
        self.tree.write("etc/fstab", self.fstab())
        self.tree.write("etc/kernel/cmdline", f"{self.line}\n")
        for name in DIRECTORIES:
            (base / "tree" / name).mkdir(parents=True, exist_ok=True)
        self.make_root()
        self.make_store()

    def command_line(self) -> str:
        words = {"btrfs": f"root={self.root} rootflags=subvol=root", "tmpfs": "root=tmpfs",
                 "zfs": f"root=zfs:{ROOT}", "zfs-rotated": f"root=zfs:{ROOT}"}  # fmt: skip
        return words.get(self.case.root, f"root={self.root}") + " ro"

    def fstab(self) -> str:
        if not self.is_on_device:
            return ""
        kind = "btrfs subvol=root" if self.has_btrfs else "ext4 defaults"
        return f"{self.root} / {kind} 0 0\n"

    def make_root(self) -> None:
        """Create the root; the caller makes a root on a pool."""
        if self.case.root.startswith("zfs"):
            return
        make = "mkfs.btrfs" if self.has_btrfs else "mkfs.ext4"
        subprocess.run([make, "-q", self.root], check=True)
        with self.mounted(self.root) as top:
            if not self.has_btrfs:
                fill(top)
                return
            for name in ("root-base", "usr", "wiped"):
                btrfsutil.create_subvolume(str(top / name))
            fill(top / "root-base")
            shutil.copytree(top / "root-base/usr", top / "usr", dirs_exist_ok=True, symlinks=True)
            btrfsutil.create_snapshot(str(top / "root-base"), str(top / "root"))

    def make_store(self) -> None:
        quiet = ["-q"] if self.case.kind != "vfat" else []
        make = [f"mkfs.{self.case.kind}", *quiet, self.volume]
        subprocess.run(make, check=True, capture_output=True)
        if self.case.kind == "vfat":
            return
        with self.mounted(self.volume) as top:
            store = top
            if self.case.kind == "btrfs":
                store = top / "persistent"
                btrfsutil.create_subvolume(str(store))
            self.mark(store)

    def mark(self, store: Path) -> None:
        marker = {"version": 1, "id": IDENTITY, "path": "/persistent"}
        (store / ".ephemeroot-store").write_text(json.dumps(marker))
        if self.case.root == "tmpfs" or "/etc" in self.case.points:  # nothing to seed from
            (store / "etc").mkdir()
            (store / "etc/app.conf").write_text("of the store")

    @contextmanager
    def mounted(self, device: str, *words: str) -> Iterator[Path]:
        where = self.base / "top"
        mount(device, where, *words)
        try:
            yield where
        finally:
            unmount(where)

    def mount_root(self) -> None:
        mount(self.root, self.sysroot, "-o", "subvol=root,ro")

    def examination(self) -> Examination:
        """As for the running machine, whose devices can be examined."""
        machine = replace(self.tree.machine, live=True, root_mount=None)
        return examine(read(machine), machine)

    def objections(self) -> list[str]:
        """The errors that `check` finds in the configuration."""
        return [str(problem) for problem in self.examination().errors]

    def plan(self) -> Plan:
        return compile_examination(replace(self.examination(), problems=())).plan

    def stage(self, stage: str) -> int:
        where = ["--plan", str(self.base / "plan.json"), "--target", str(self.sysroot)]
        return entry([stage, *where, "--run", str(self.run), "--cmdline", self.line])

    def power_off(self) -> None:
        unmount(self.sysroot)
        for place in (self.run / "volumes").glob("*"):
            unmount(place)

    def boot(self, *, identified: bool = True) -> bool:
        """Whether both stages end as they should. The plan names its root only if it is
        *identified*.
        """
        self.power_off()
        shutil.rmtree(self.base / "run", ignore_errors=True)
        self.sysroot.mkdir(exist_ok=True)
        plan = self.plan()
        root = plan.root_wipe()
        if root is not None and not identified:
            root.identity = {}
        (self.base / "plan.json").write_bytes(plan.dump())
        if self.stage("wipe") != 0:
            return False
        if not os.path.ismount(self.sysroot):
            self.mount_root()
        return self.stage("persist") == 0

    def complete(self) -> None:
        """Complete the boot as the real system does: mark the root, and copy back."""
        for operation in self.plan().wipes():
            mark_boot_complete(operation.load(), self.sysroot / operation.target[1:])
        recorded = copyback._recorded(self.run / "copies")
        if recorded is not None:
            problems: list[str] = []
            stores = recorded.open_stores(str(self.sysroot), problems)
            root = os.open(self.sysroot, os.O_RDONLY | os.O_DIRECTORY)
            try:
                problems += recorded.copy_back(root, stores).problems
            finally:
                for fd in (root, *stores.values()):
                    os.close(fd)
            assert problems == []

    def inside(self, path: str) -> Path:
        """The declared *path*, also if a link of the root leads into the store."""
        place = self.sysroot / path
        return self.sysroot / os.readlink(place).strip("/") if place.is_symlink() else place

    def upgrade(self) -> None:
        """Add a new program and a new kernel to the base."""
        self.power_off()
        with self.mounted(self.root) as top:
            if self.has_btrfs:
                add_programs(top / "root-base")
                add_programs(top / "usr", usr=True)
            else:
                add_programs(top)

    def is_sound(self) -> bool:
        """Whether the booted root can run a system, and the base is not writable."""
        root = self.sysroot
        space = os.statvfs(root)
        if space.f_bavail * space.f_frsize < 1 << 20 or 0 < space.f_files < 500:
            return False
        if root.stat().st_mode & 0o113 != 0o111 or root.stat().st_uid != 0:
            return False
        if not os.access(root / "sbin/init", os.X_OK):
            return False
        points = [root / "persistent", root / "layers"]
        return not any((point / "usr/lib/os-release").exists() for point in points)


UPGRADED = ("usr/bin", "usr/sbin", "usr/libexec", "usr/share", "usr/lib/modules",
            "usr/lib/firmware", "boot")  # fmt: skip
DIRECTORIES = (*UPGRADED, "etc", "usr/lib/systemd", "var", "tmp", "usr/local", "srv/data",
               "persistent", "home", "opt", "run", "layers")  # fmt: skip


def fill(root: Path) -> None:
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/lib/os-release").write_text("ID=test\n")
    for name in ("usr/sbin/init", "usr/lib/systemd/systemd"):
        (root / name).write_text("#!/bin/sh\n")
        (root / name).chmod(0o755)
    (root / "etc/app.conf").write_text("of the base\n")
    (root / "srv/data/seed").write_text("of the base\n")


def add_programs(root: Path, *, usr: bool = False) -> None:
    """Files of a package manager; with *usr*, *root* is /usr itself."""
    for name in UPGRADED:
        folder = root / (name.removeprefix("usr/") if usr else name)
        if folder.is_dir():
            (folder / "upgraded").touch()


def boots(site: Site) -> bool:
    """Whether two boots succeed, keep the declared paths, and show the content that the base got in
    between.
    """
    if not site.boot() or not site.is_sound():
        return False
    root, name = site.sysroot, f"diary of {site.case.name}"
    (site.inside("srv/data") / "diary").write_text(name)
    subprocess.run(["mount", "-o", "remount,rw", root], check=False)
    (root / "lost").touch()
    declared = (*site.case.paths, *site.case.overlays)
    try:
        for path in (*declared, *site.case.points):
            (root / path[1:] / "diary").write_text(name)
        site.inside("etc/app.conf").write_text(name)
    except OSError:
        return False
    site.complete()
    site.upgrade()
    if not site.boot() or not site.is_sound() or (root / "lost").exists():
        return False
    if (site.inside("srv/data") / "diary").read_text() != name:
        return False
    if site.inside("etc/app.conf").read_text() != name:
        return False
    if any((root / path[1:] / "diary").read_text() != name for path in declared):
        return False
    for old in root.glob("*/ephemeroot-overlay/old-uppers"):
        if not list(old.iterdir()):
            return False
    folders = [name for name in UPGRADED if site.case.root != "tmpfs" or name != "boot"]
    return all((root / folder / "upgraded").exists() for folder in folders)


@contextmanager
def site_of(base: Path, case: Case) -> Iterator[Site]:
    images = [base / "r.img", base / "v.img"]
    for image in images:
        with image.open("wb") as file:
            file.truncate(SIZE)
    with attached(images[0]) as root, attached(images[1]) as volume:
        site = Site(base, case, str(root), str(volume))
        try:
            yield site
        finally:
            site.power_off()
