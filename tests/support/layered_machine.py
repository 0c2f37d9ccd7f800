"""An installed root on one ext4 that boots below layers, with both stages; a store on another."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from btrfs_image import loop_device
from complete_boot import mark_boot_complete
from ephemeroot.hooks.__main__ import main as entry
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers.overlay import Overlay
from mounting import mount, unmount
from overlay_machine import DEFAULTS, InstalledRoot, Machine

STORE = "/persistent"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"

KEPT = "ephemeroot.wipe=no"


class LayeredMachine:
    """Boots the root of *disks*. The store and, unless in *memory*, the layers are on its volume;
    with *layers* they are on that device instead, a filesystem of that *kind*, mounted with
    *options*.
    """

    def __init__(
        self, disks: Machine, store: str, *, memory: bool = False, layers: str = "",
        kind: str = "ext4", options: tuple[str, ...] = (), system: str = "",
    ) -> None:  # fmt: skip
        self.disks = disks
        self.system = system
        self.generation = 1
        self.on_failure: dict[str, str] = {}
        self.persist: list[Operation] = []
        self.settings: dict[str, object] = dict(DEFAULTS)
        self.devices = {STORE: store}
        if layers:
            self.devices["/layers"] = layers
        self.kinds = {STORE: "ext4", "/layers": kind}
        self.options: dict[str, list[str]] = {STORE: [], "/layers": list(options)}
        if not memory:
            self.settings["volume"] = "/layers" if layers else STORE
        marker = {"version": 1, "id": IDENTITY, "path": STORE}
        (disks.volume / ".ephemeroot-store").write_text(json.dumps(marker))
        with InstalledRoot(disks) as top:
            for point in (*self.devices, "/run"):
                (top / point[1:]).mkdir(exist_ok=True)

    @property
    def root(self) -> Path:
        return self.disks.sysroot

    @property
    def store(self) -> Path:
        """The store, at another mount of its volume."""
        return self.disks.volume

    @property
    def run(self) -> Path:
        return self.disks.base / "run/ephemeroot"

    def plan(self) -> Plan:
        volumes = [
            MountVolume(
                mount_point=point,
                name=point[1:],
                device=device,
                type=self.kinds[point],
                options=self.options[point],
            )
            for point, device in self.devices.items()
        ]
        wipe = Wipe(
            target="/",
            wiper="overlay",
            attribute="ephemeroot.wipers.overlay:Overlay",
            settings=self.settings,
        )
        store = Store(path=STORE, volume=STORE[1:], id=IDENTITY)
        attached = [Attach(mount_point=v.mount_point, volume=v.name) for v in volumes]
        return Plan(
            generation=self.generation,
            system=self.system,
            on_failure=self.on_failure,
            wipe=[*volumes, store, wipe],
            persist=[*attached, *self.persist],
        )

    def stage(self, stage: str, words: str = "") -> int:
        """Run the entry point in this process: an interpreter for each of many boots takes too
        long.
        """
        plan = self.disks.base / "plan.json"
        plan.write_bytes(self.plan().dump())
        where = ["--plan", str(plan), "--target", str(self.root), "--run", str(self.run)]
        line = f"root={self.disks.device} ro {words}"
        return entry([stage, *where, "--cmdline", line])

    def boot(self, words: str = "", *, complete: bool = True) -> list[int]:
        """Run both stages of the next boot, which ends with a power cut unless it is *complete*;
        return their exit codes.
        """
        self.power_off()
        codes = [self.stage("wipe", words)]
        if codes[0] not in (0, 10, 11, 12):
            return codes
        if not os.path.ismount(self.root):
            mount(self.disks.device, self.root, "-o", "ro")
        codes.append(self.stage("persist", words))
        if subprocess.run(["mount", "-o", "remount,rw", self.root], check=False).returncode:
            raise AssertionError("the root cannot be made writable")
        if complete and words != KEPT:
            mark_boot_complete(Overlay(self.settings), self.root)
        return codes

    def power_off(self) -> None:
        unmount(self.root)
        for point in self.devices:
            unmount(self.run / "volumes" / point[1:])
        subprocess.run(["rm", "-r", "-f", self.run], check=True)

    def report(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "boot.json").read_text())[stage]
        return found

    def live(self) -> Path:
        """The root as the real system has it, with the run directory in it."""
        where = self.root / "run/ephemeroot"
        where.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", self.run, where], check=True)
        return self.root

    def type_of_root(self) -> str:
        words = ["findmnt", "-no", "FSTYPE", "--mountpoint", str(self.root)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def content(machine: LayeredMachine) -> dict[str, str]:
    """The content of the installed root: each path with its type and a digest."""
    found = {}
    with InstalledRoot(machine.disks) as top:
        for path in sorted(top.rglob("*")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(top))] = f"{path.lstat().st_mode:o} {digest}"
    return found


@contextmanager
def two_disks(base: Path, *, size: int = 32) -> Iterator[tuple[Machine, str]]:
    """An installed root, and the device of a volume, which is mounted at ``Machine.volume``."""
    base.mkdir(exist_ok=True)
    with loop_device(base / "root.img", size) as root, loop_device(base / "v.img", size) as volume:
        for device in (root, volume):
            subprocess.run(["mkfs.ext4", "-q", device], check=True)
        made = Machine(base, root, volume)
        try:
            yield made, volume
        finally:
            unmount(made.sysroot)
            for point in (base / "run/ephemeroot/volumes").glob("*"):
                unmount(point)
            unmount(made.volume)


@contextmanager
def layered_machine(
    base: Path, *, memory: bool = False, size: int = 32
) -> Iterator[LayeredMachine]:
    with two_disks(base, size=size) as (disks, volume):
        yield LayeredMachine(disks, volume, memory=memory)
