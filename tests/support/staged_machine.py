"""A disk as an installer left it, booted by the real stages, with one process for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import btrfsutil

import programs
from btrfs_image import DEFAULTS
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan

STORE = "/persistent"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
MACHINE_ID = "00112233445546778899aabbccddeeff"

ENTRY = ("-m", "ephemeroot.hooks")
"""The code that an interpreter runs for a stage."""


class Machine:
    """A disk as an installer left it, and everything needed to boot it."""

    def __init__(self, base: Path, loop: str, top: Path) -> None:
        self.base = base
        self.loop = loop
        self.top = top
        self.boots = 0
        self.settings: dict[str, object] = DEFAULTS | {"base": "root-base"}
        self.generation = 1
        self.device: str | None = None
        self.seed_limit = 1 << 20
        self.persist: list[Operation] = [
            Parent(path="/etc", store=STORE, source="etc"),
            Directory(path="/srv", store=STORE, source="srv"),
            File(path="/etc/hostname", store=STORE, source="etc/hostname"),
            MachineId(store=STORE),
        ]
        for name in ("root-base", "persistent"):
            btrfsutil.create_subvolume(str(top / name))
        self._fill(top / "root-base")
        btrfsutil.create_snapshot(str(top / "root-base"), str(top / "root"))
        marker = {"version": 1, "id": IDENTITY, "path": STORE}
        (top / "persistent/.ephemeroot-store").write_text(json.dumps(marker))

    @staticmethod
    def _fill(root: Path) -> None:
        for name in ("etc", "sbin", "srv", "usr/lib", "persistent"):
            (root / name).mkdir(parents=True)
        (root / "usr/lib/os-release").write_text("ID=test\n")
        (root / "sbin/init").write_text("#!/bin/sh\n")
        (root / "sbin/init").chmod(0o755)
        (root / "etc/hostname").write_text("of-the-base\n")

    def plan(self) -> Plan:
        return Plan(
            wipe=[
                MountVolume(
                    mount_point=STORE,
                    name="persistent",
                    device=self.loop,
                    type="btrfs",
                    options=["subvol=persistent"],
                ),
                Store(path=STORE, volume="persistent", id=IDENTITY),
                Wipe(
                    target="/",
                    wiper="btrfs",
                    attribute="ephemeroot.wipers.btrfs:Btrfs",
                    device=self.device,
                    settings=self.settings,
                ),
            ],
            persist=[Attach(mount_point=STORE, volume="persistent"), *self.persist],
            generation=self.generation,
            seed_limit=self.seed_limit,
        )

    def stage(
        self,
        stage: str,
        words: str = "",
        *,
        entry: tuple[str, ...] | None = None,
        tracer: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        (self.base / "plan.json").write_bytes(self.plan().dump())
        (self.base / "sysroot").mkdir(exist_ok=True)
        given: list[str | Path] = [
            stage, "--plan", self.base / "plan.json", "--target", self.base / "sysroot",
            "--run", self.run, "--verbose",
            "--cmdline", f"root={self.loop} rootflags=subvol=root ro {words}",
        ]  # fmt: skip
        if entry is None and not tracer:
            return programs.run(*given, program="stage")
        return subprocess.run(
            [*tracer, sys.executable, "-P", *(entry or ENTRY), *given],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def run(self) -> Path:
        return self.base / f"run{self.boots}"

    def mount_root(self) -> Path:
        """The work of the initramfs between the stages."""
        root = self.base / "sysroot"
        options = "subvol=root,ro"
        subprocess.run(["mount", "-t", "btrfs", "-o", options, self.loop, root], check=True)
        return root

    def next_boot(self) -> None:
        subprocess.run(["umount", "-R", self.base / "sysroot"], check=False, capture_output=True)
        self.leave()
        self.boots += 1

    def leave(self) -> None:
        volume = self.run / "volumes/persistent"
        subprocess.run(["umount", volume], check=False, capture_output=True)

    def boot(self, words: str = "") -> Path:
        """A whole boot up to switch_root; the new root is left mounted."""
        wiped = self.stage("wipe", words)
        assert wiped.returncode == 0, wiped.stderr
        root = self.mount_root()
        persisted = self.stage("persist", words)
        assert persisted.returncode == 0, persisted.stderr
        return root

    def report(self) -> dict[str, dict[str, object]]:
        content: dict[str, dict[str, object]] = json.loads((self.run / "boot.json").read_text())
        return content

    def old(self) -> list[str]:
        old_roots = self.top / "old_roots"
        return sorted(os.listdir(old_roots)) if old_roots.exists() else []

    def assert_kept(self, done: subprocess.CompletedProcess[str], message: str) -> None:
        """Nothing was changed, the boot continues, and the message says why."""
        assert done.returncode == 10, done.stderr
        assert message in done.stderr
        assert "the root is kept" in done.stderr
        assert self.old() == []
        assert (self.top / "root/stray").exists()
        assert [n for n in os.listdir(self.top) if n.startswith(".")] == []
