"""A boot's directories on real mounts: a new root and a store, in memory or on loop devices."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import loop_device
from ephemeroot.hooks import persist
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.plan import SEED_LIMIT, Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage

STORE = "/persistent"
IDENTITY = "0b5d1c1e-6e0c-4a35-9d86-6f3d6c5d3a10"


FSTYPES = ("tmpfs", "ext4", "btrfs")


class Boot:
    """One boot's directories: the run directory, the mounted store, the mounted new root.

    Root and store are separate filesystems of type ``fstype`` with so many *megabytes*.
    """

    def __init__(self, base: Path, fstype: str = "tmpfs", megabytes: int = 64) -> None:
        self.base = base
        self.fstype = fstype
        self.megabytes = megabytes
        self.images: dict[Path, Path] = {}
        self.run = base / "run" / "ephemeroot"
        self.target = base / "sysroot"
        self.store = self.run / "volumes" / "persistent"
        self.target.mkdir(parents=True)
        self.store.mkdir(parents=True)
        for place in (self.target, self.store):
            self._mount(place)
        (self.store / ".ephemeroot-store").write_text(json.dumps({"version": 1, "id": IDENTITY}))

    def _mount(self, place: Path) -> None:
        """Mount a new filesystem at *place*."""
        if self.fstype == "tmpfs":
            options = ["-o", f"size={self.megabytes}m"]
            subprocess.run(["mount", "-t", "tmpfs", *options, "none", place], check=True)
            return
        image = self.images[place] = self.base / f"{place.name}.image"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(self.megabytes << 20)
        command = {
            "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
            "btrfs": ["mkfs.btrfs", "-q", "--mixed"],
        }[self.fstype]
        subprocess.run([*command, image], check=True, capture_output=True)
        # The device is released with the mount, and the mount with this process at the latest.
        loop_device.mount(image, place, "-t", self.fstype)

    def fill(self, place: Path) -> None:
        """Leave no room on the filesystem at *place*."""
        idle = number = 0
        while idle < 2:  # a commit may free space that the filesystem itself had used
            written = 0
            try:
                with (place / f"ballast{number}").open("wb", buffering=0) as file:
                    while True:
                        written += file.write(bytes(1 << (20 if number == 0 else 9)))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            subprocess.run(["sync", "-f", place], check=True)
            idle = 0 if written else idle + 1
            number += 1

    def root(self, path: str) -> Path:
        return self.target / path.lstrip("/")

    def persist(
        self,
        *operations: Operation,
        cmdline: str = "",
        policy: str = "continue",
        seed_limit: int = SEED_LIMIT,
    ) -> str:
        plan = Plan(
            wipe=[
                MountVolume(mount_point=STORE, name="persistent", device="tmpfs", type=self.fstype),
                Store(path=STORE, volume="persistent", id=IDENTITY),
            ],
            persist=[Attach(mount_point=STORE, volume="persistent"), *operations],
            on_failure={"path": policy},
            seed_limit=seed_limit,
        )
        report = Report("persist", str(self.run / "boot.json"), "boot", boot=False)
        stage = Stage(
            plan,
            CommandLine(cmdline),
            report,
            target=str(self.target),
            run=str(self.run),
            boot_id="boot",
        )
        try:
            result = persist.run(stage)
        finally:
            stage.close()
        report.finish(result)
        return result

    def next_boot(self, wiped: bool = True) -> None:
        """Power off; the store stays, and the root is a new one unless not *wiped*."""
        store = self.root(STORE)
        subprocess.run(["mount", "--bind", store, self.store], check=True)
        if wiped:
            subprocess.run(["umount", "-R", "-l", self.target], check=True)
            self._mount(self.target)

    def problems(self) -> list[str]:
        report = json.loads((self.run / "boot.json").read_text())
        return [problem["problem"] for problem in report["persist"]["problems"]]

    def operations(self) -> list[dict[str, str]]:
        """The result of each operation in the report."""
        report = json.loads((self.run / "boot.json").read_text())
        said: list[dict[str, str]] = report["persist"]["operations"]
        return said

    def results(self) -> list[str]:
        return [entry["result"] for entry in self.operations()]

    def unmount(self) -> None:
        for place in (self.target, self.store):
            subprocess.run(["umount", "-R", "-l", place], check=False, capture_output=True)
        for image in self.images.values():
            image.unlink()


def directory(path: str, **values: Any) -> Directory:
    return Directory(path=path, store=STORE, source=path.lstrip("/"), **values)


def parent(path: str, **values: Any) -> Parent:
    return Parent(path=path, store=STORE, source=path.lstrip("/"), **values)


def file(path: str, **values: Any) -> File:
    return File(path=path, store=STORE, source=path.lstrip("/"), **values)


def copy(path: str, **values: Any) -> Copy:
    return Copy(path=path, store=STORE, source=path.lstrip("/"), **values)


def overlay(path: str, **values: Any) -> Overlay:
    return Overlay(path=path, store=STORE, source=path.lstrip("/"), **values)


def owner_and_mode(path: Path) -> tuple[int, int, str]:
    """Owner and mode of the entry *path* itself; the mode in octal."""
    status = path.lstat()
    return status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))
