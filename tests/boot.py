"""A boot's directories on real mounts: a tmpfs as the new root, another as the store."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ephemeroot.hooks import persist
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.copies import Copy
from ephemeroot.hooks.directories import Directory, Parent
from ephemeroot.hooks.files import File
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.overlays import Overlay
from ephemeroot.hooks.plan import SEED_LIMIT, Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.hooks.volumes import Attach, Store, Volume

STORE = "/persistent"
IDENTITY = "0b5d1c1e-6e0c-4a35-9d86-6f3d6c5d3a10"


class Boot:
    """One boot's directories: the run directory, the mounted store, the mounted new root."""

    def __init__(self, base: Path) -> None:
        self.run = base / "run" / "ephemeroot"
        self.target = base / "sysroot"
        self.store = self.run / "volumes" / "persistent"
        self.target.mkdir(parents=True)
        self.store.mkdir(parents=True)
        for place in (self.target, self.store):
            subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        (self.store / ".ephemeroot-store").write_text(json.dumps({"version": 1, "id": IDENTITY}))
        self.fstype = "tmpfs"

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
                Volume(mount_point=STORE, name="persistent", device="tmpfs", type=self.fstype),
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
            subprocess.run(["mount", "-t", "tmpfs", "none", self.target], check=True)

    def problems(self) -> list[str]:
        report = json.loads((self.run / "boot.json").read_text())
        return [problem["problem"] for problem in report["persist"]["problems"]]

    def results(self) -> list[str]:
        report = json.loads((self.run / "boot.json").read_text())
        return [entry["result"] for entry in report["persist"]["operations"]]

    def unmount(self) -> None:
        for place in (self.target, self.store):
            subprocess.run(["umount", "-R", "-l", place], check=False, capture_output=True)


def directory(path: str, **values: object) -> Directory:
    return Directory(path=path, store=STORE, source=path.lstrip("/"), **values)


def parent(path: str, **values: object) -> Parent:
    return Parent(path=path, store=STORE, source=path.lstrip("/"), **values)


def file(path: str, **values: object) -> File:
    return File(path=path, store=STORE, source=path.lstrip("/"), **values)


def copy(path: str, **values: object) -> Copy:
    return Copy(path=path, store=STORE, source=path.lstrip("/"), **values)


def overlay(path: str, **values: object) -> Overlay:
    return Overlay(path=path, store=STORE, source=path.lstrip("/"), **values)
