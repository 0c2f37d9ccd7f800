"""Configurations as people have them: each compiles, and gives exactly the mounts it should.

Their paths, users, modes and stores are facts from public configurations of NixOS's
impermanence and preservation; beside each stands a table of what must come of it, which is
not made by this program.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from btrfs_image import Disk, fresh_disk
from ephemeroot.config import Machine, read
from ephemeroot.hooks import persist
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import mountinfo
from ephemeroot.plan.compile import compile_machine
from machine_tree import IDENTITY, MAIN, MachineTree

FOLDER = Path(__file__).with_name("configurations")
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))

USERS = {
    "root": (0, "/root"), "ada": (1000, "/home/ada"), "acme": (201, "/var/lib/acme"),
    "colord": (202, "/"), "dendrite": (203, "/"), "greeter": (204, "/"), "ollama": (205, "/"),
    "postgres": (206, "/"), "slskd": (207, "/var/lib/slskd"), "systemd-timesync": (208, "/"),
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """A line of a table; ``owner`` and ``mode`` are a new directory's."""

    path: str
    how: str
    store: str
    owner: tuple[int, int] | None = None
    mode: int | None = None


def expected(name: str) -> list[Expected]:
    found = []
    for line in (FOLDER / f"{name}.mounts").read_text().splitlines():
        if line.startswith("#"):
            continue
        path, how, store, *rest = line.split()
        if rest:
            user, group = (USERS[part][0] for part in rest[0].split(":"))
            found.append(Expected(path, how, store, (user, group), int(rest[1], 8)))
        else:
            found.append(Expected(path, how, store))
    return found


def machine_tree(folder: Path, name: str, device: str, prefix: str = "") -> MachineTree:
    """A machine with those users; *prefix* goes before the subvolumes' names."""
    text = (FOLDER / f"{name}.toml").read_text().replace('"DEVICE"', f'"{device}"')
    tree = MachineTree(folder, text.replace("subvol=", f"subvol={prefix}"))
    people = [f"{n}:x:{uid}:{uid}::{home}:/bin/sh\n" for n, (uid, home) in USERS.items()]
    tree.write("etc/passwd", "".join(people))
    tree.write("etc/group", "".join(f"{n}:x:{uid}:\n" for n, (uid, _) in USERS.items()))
    for line in expected(name):
        if not (folder / line.store.lstrip("/") / ".ephemeroot-store").exists():
            tree.mark(line.store.lstrip("/"))
    return tree


def planned(plan: Plan) -> set[Expected]:
    """What a plan says, in the words of the tables."""
    found = set()
    for operation in plan.persist:
        if isinstance(operation, Directory):
            owner = operation.user, operation.group
            found.add(
                Expected(operation.path, operation.method, operation.store, owner, operation.mode)
            )
        elif isinstance(operation, File):
            how = {"auto": "bind", "symlink": "link"}.get(operation.method, operation.method)
            found.add(Expected(operation.path, how, operation.store))
        elif isinstance(operation, MachineId):
            found.add(Expected("/etc/machine-id", "copy", operation.store))
    return found


def test_there_are_twenty() -> None:
    assert len(NAMES) >= 20
    assert {path.stem for path in FOLDER.glob("*.mounts")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_compiles(name: str, tmp_path: Path) -> None:
    tree = machine_tree(tmp_path, name, "UUID=3c2a1b0e-0000-4000-8000-000000000001")
    assert [str(problem) for problem in tree.errors()] == []
    assert planned(tree.plan()) == set(expected(name))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, private_mounts: None) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("disk"), 1024) as made:
        yield made


class Site:
    """One machine of the configuration *name* on the disk, and its boot."""

    def __init__(self, base: Path, disk: Disk, name: str) -> None:
        self.name = name
        self.top = disk.top / name
        self.top.mkdir()
        self.tree = machine_tree(base / "machine", name, disk.loop, f"{name}/")
        machine = Machine.of(str(self.tree.path))
        self.plan = compile_machine(read(machine), machine).plan
        # What wipes has tests of its own; the root is one that it could have made.
        self.plan.wipe = [o for o in self.plan.wipe if not isinstance(o, Wipe)]
        self.volumes = {o.mount_point: self._subvolume(o) for o in self.plan.wipe
                        if isinstance(o, MountVolume)}  # fmt: skip
        self.target, self.run = base / "sysroot", base / "run/ephemeroot"
        self.target.mkdir()
        self.run.mkdir(parents=True)
        self._loop = disk.loop
        for line in expected(name):
            marker = self.in_store(line.store, ".ephemeroot-store")
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(json.dumps({"version": 1, "id": IDENTITY}))

    def _subvolume(self, volume: MountVolume) -> Path:
        option = next(o for o in volume.options if o.startswith("subvol="))
        path = self.top / option.removeprefix(f"subvol={self.name}/")
        self._btrfs("subvolume", "create", path)
        return path

    @staticmethod
    def _btrfs(*words: object) -> None:
        subprocess.run(["btrfs", "-q", *map(str, words)], check=True)

    def in_store(self, store: str, path: str) -> Path:
        """Where the disk has *path* of a store."""
        point = max((p for p in self.volumes if f"{store}/".startswith(f"{p}/")), key=len)
        return self.volumes[point] / store[len(point) :].strip("/") / path.strip("/")

    def boot(self) -> None:
        """A fresh root, and the persistence stage on it."""
        root = self.top / "root"
        if root.exists():
            subprocess.run(["umount", "-R", self.target], check=True)
            self._btrfs("subvolume", "delete", root)
            (self.run.parent / "mount/utab").unlink(missing_ok=True)
        self._btrfs("subvolume", "create", root)
        options = f"subvol={self.name}/root"
        subprocess.run(["mount", "-o", options, self._loop, self.target], check=True)
        self._persist()

    def _persist(self) -> None:
        report = Report("persist", str(self.run / "boot.json"), "boot", boot=False)
        stage = Stage(self.plan, CommandLine(""), report, target=str(self.target),
                      run=str(self.run), boot_id="boot")  # fmt: skip
        try:
            report.finish(persist.run(stage))
        finally:
            stage.close()
        written = json.loads((self.run / "boot.json").read_text())
        assert written["persist"]["problems"] == []

    def at(self, path: str) -> Path:
        return self.target / path.lstrip("/")

    def is_in_a_kept_directory(self, line: Expected) -> bool:
        above = [o.path for o in expected(self.name) if o.owner is not None]
        return any(line.path.startswith(f"{path}/") for path in above)

    def mounts(self) -> dict[str, str]:
        """Where each mount below the root comes from, as a path on the disk."""
        prefix = str(self.target)
        return {
            mount.point.removeprefix(prefix): mount.root
            for mount in mountinfo.mounts()
            if mount.point.startswith(f"{prefix}/")
        }

    def unmount(self) -> None:
        subprocess.run(["umount", "-R", self.target], check=True)


@pytest.mark.requires_loop
@pytest.mark.parametrize("name", NAMES)
def test_its_mounts(name: str, disk: Disk, tmp_path: Path) -> None:
    site = Site(tmp_path, disk, name)
    lines = expected(name)
    try:
        site.boot()
        for line in lines:
            check_first_boot(site, line)
        for line in lines:  # files that have been written since
            if line.owner is None and line.how != "copy":
                site.in_store(line.store, line.path).write_text(line.path)
        site.boot()
        wanted = {point: f"/{path.relative_to(disk.top)}" for point, path in site.volumes.items()}
        for line in lines:
            kept = site.in_store(line.store, line.path)
            if line.how == "bind":
                wanted[line.path] = f"/{kept.relative_to(disk.top)}"
            elif line.how == "copy" and kept.exists():
                assert site.at(line.path).read_text() == kept.read_text()
                assert len(kept.read_text().strip()) == 32
            elif line.how == "link":
                assert os.readlink(site.at(line.path)) == f"{line.store}{line.path}"
            if line.owner is None and line.how == "bind":
                assert site.at(line.path).read_text() == line.path
        assert site.mounts() == wanted
    finally:
        site.unmount()


def check_first_boot(site: Site, line: Expected) -> None:
    """With an empty store: directories are made with owner and mode, files are links."""
    place = site.at(line.path)
    if line.owner is not None:
        status = place.stat()
        found = status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))
        assert found == (*line.owner, oct(line.mode or 0)), line
    elif line.how != "copy" and site.is_in_a_kept_directory(line):
        assert not place.exists(), "the next program that writes it writes into the store"
    elif line.how != "copy":
        assert os.readlink(place) == f"{line.store}{line.path}"
    if line.path.startswith("/home/ada/"):
        home = site.at("/home/ada").stat()
        assert (home.st_uid, stat.S_IMODE(home.st_mode)) == (USERS["ada"][0], 0o700)


def test_the_machine_that_tests_has_none_of_these_users() -> None:
    """Names are looked up in the machine's own accounts, never in those of who compiles."""
    assert not {"slskd", "dendrite", "greeter"} & {entry.pw_name for entry in pwd.getpwall()}
    assert MAIN.startswith("etc/")
