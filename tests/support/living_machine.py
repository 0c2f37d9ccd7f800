"""A machine in use: a btrfs root made by a wipe, with old ones, a store with persistent paths bound
over the root, and an applied plan. Made with the real programs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import btrfsutil

import programs
from btrfs_image import DEFAULTS, NOON, Disk, fresh_disk, mounted
from complete_boot import mark_boot_complete
from ephemeroot.hooks import records
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.contract import Boot

IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
STORE = "/persistent"
ATTRIBUTE = "ephemeroot.wipers.btrfs:Btrfs"
DAY = 86400


class LivingMachine:
    """``root`` is where the present root is mounted, ``disk`` the btrfs with everything."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        self.root = root
        self.settings = DEFAULTS | {"base": "base"}
        top = disk.top
        btrfsutil.create_subvolume(str(top / "base"))
        base = top / "base"
        for name in (
            "etc/ephemeroot",
            "etc/kernel",
            "persistent",
            "var/log",
            "usr/bin",
            "home/u",
            "usr/lib",
            "sbin",
            "run",
        ):
            (base / name).mkdir(parents=True)
        (base / "usr/lib/os-release").write_text("ID=test\n")
        (base / "sbin/init").write_text("#!/bin/sh\n")
        (base / "sbin/init").chmod(0o755)
        (base / "etc/kernel/cmdline").write_text(f"root={disk.loop} rootflags=subvol=root ro\n")
        (base / "etc/hostname").write_text("base\n")
        (base / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (base / "usr/bin/tool").write_bytes(b"\x7fELF" + bytes(5000))
        (base / "usr/bin/link").symlink_to("tool")
        (base / "etc/ephemeroot/plan.json").write_bytes(self.plan().dump())
        btrfsutil.create_subvolume(str(top / "store"))
        (top / "store/var/log").mkdir(parents=True)
        marker = {"version": 1, "id": IDENTITY, "path": STORE}
        (top / "store/.ephemeroot-store").write_text(json.dumps(marker))

    def plan(self, *more: Operation) -> Plan:
        return Plan(
            generation=1,
            wipe=[
                MountVolume(mount_point=STORE, name="persistent", device=self.disk.loop,
                       type="btrfs", options=["subvol=store"]),
                Store(path=STORE, volume="persistent", id=IDENTITY),
                Wipe(target="/", wiper="btrfs", attribute=ATTRIBUTE, settings=self.settings),
            ],
            persist=[
                Attach(mount_point=STORE, volume="persistent"),
                *(Parent(path=path, store=STORE, source=path[1:])
                  for path in ("/etc", "/var", "/srv", "/srv/data")),
                Directory(path="/var/log", store=STORE, source="var/log"),
                Directory(path="/srv/data/kept", store=STORE, source="srv/data/kept"),
                Copy(path="/etc/passwd", store=STORE, source="etc/passwd"),
                File(path="/etc/linked", store=STORE, source="etc/linked"),
                MachineId(store=STORE),
                *more,
            ],
        )  # fmt: skip

    def boot(self, now: float = NOON) -> None:
        """Power off and on: the root is new, and declared paths are bound over it."""
        self.shut_down()
        boot = Boot(
            device=self.disk.loop, subvolume="root", target="/", private=str(self.disk.private),
            boot_id="boot", now=now, synchronised=True, prove=lambda path: None,
            log=lambda line: None,
        )  # fmt: skip
        Btrfs(self.settings).wipe(boot)
        self.root.mkdir(exist_ok=True)
        self.mount("subvol=root", self.root)
        self.mount("subvol=store", self.root / "persistent")
        made = ["/srv/data", "/srv", "/srv/data/kept", "/etc/linked"]
        (self.root / "srv/data/kept").mkdir(parents=True)
        (self.root / "etc/linked").symlink_to("/persistent/etc/linked")
        (self.root / "etc/machine-id").write_text("0" * 32 + "\n")
        for name in ("var/log", "srv/data/kept"):
            source = self.disk.top / "store" / name
            source.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", source, self.root / name], check=True)
        fd = os.open(self.root, os.O_RDONLY)
        records.write_made(fd, made)
        os.close(fd)
        mark_boot_complete(Btrfs(self.settings), self.root)

    def boot_by_the_stages(self, words: str = "") -> list[int]:
        """The same with the real stages of a boot, each in a process; return their exit codes."""
        self.shut_down()
        base = self.root.parent
        run = base / "run"
        shutil.rmtree(run, ignore_errors=True)
        (base / "booted.json").write_bytes(self.plan().dump())
        codes = []
        self.root.mkdir(exist_ok=True)
        for stage in ("wipe", "persist"):
            done = programs.run(
                stage, "--plan", base / "booted.json", "--target", self.root, "--run", run,
                "--cmdline", f"root={self.disk.loop} rootflags=subvol=root ro {words}",
                program="stage",
            )  # fmt: skip
            codes.append(done.returncode)
            if stage == "wipe":
                self.mount("subvol=root", self.root)
        subprocess.run(["umount", "-R", run / "volumes/persistent"], capture_output=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", self.root / "run"], check=True)
        shutil.copytree(run, self.root / "run/ephemeroot")
        return codes

    def mount(self, options: str, where: Path) -> None:
        subprocess.run(["mount", "-o", options, self.disk.loop, where], check=True)

    def shut_down(self) -> None:
        if self.root.is_dir() and os.path.ismount(self.root):
            subprocess.run(["umount", "-R", self.root], check=True)

    def call(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return programs.run("--root", self.root, *words)

    def json(self, *words: str | Path) -> Any:
        done = self.call(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def old(self) -> list[str]:
        return sorted(os.listdir(self.disk.top / "old_roots"))


@contextmanager
def living_machine(base: Path, megabytes: int = 256) -> Iterator[LivingMachine]:
    with fresh_disk(base, megabytes) as disk:
        machine = LivingMachine(disk, base / "machine")
        try:
            yield machine
        finally:
            machine.shut_down()


__all__ = ["DAY", "NOON", "LivingMachine", "living_machine", "mounted"]
