"""An installed root on one ext4 and a volume on another, for the tests of the overlay wiper."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from btrfs_image import loop_device
from complete_boot import mark_boot_complete
from ephemeroot.wipers.contract import Boot, Outcome
from ephemeroot.wipers.history import Installed
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.overlay.history import UpperHistory
from ephemeroot.wipers.overlay.uppers import FOLDER
from mounting import mount, unmount

DEFAULTS: dict[str, object] = {option.name: option.default for option in Overlay.OPTIONS}
DAY = 86400
NOON = 1795435200  # 2026-11-23T12:00:00Z
STAMP = "2026-11-23T12-00-00Z"


class Machine:
    """An installed root on one ext4, a volume on another."""

    def __init__(self, base: Path, root: str, volume: str) -> None:
        self.base = base
        self.device = root
        self.volume = base / "volume"
        self.private = base / "private"
        self.sysroot = base / "sysroot"
        self.private.mkdir()
        self.sysroot.mkdir()
        self.proven: list[str] = []
        self.settings = DEFAULTS | {"volume": "/persistent"}
        with InstalledRoot(self) as top:
            for name in ("etc", "sbin", "usr/lib"):
                (top / name).mkdir(parents=True)
            (top / "usr/lib/os-release").write_text("ID=test\n")
            (top / "sbin/init").write_text("#!/bin/sh\n")
            (top / "sbin/init").chmod(0o755)
            (top / "etc/installed").write_text("by the installer\n")
            top.chmod(0o751)
        mount(volume, self.volume)

    @property
    def folder(self) -> Path:
        return self.volume / FOLDER

    def old(self) -> list[str]:
        folder = self.folder / "old-uppers"
        return sorted(os.listdir(folder)) if folder.exists() else []

    def boot(
        self,
        now: float = NOON,
        *,
        previous: Callable[[str, bool], None] = lambda path, complete: None,
        prove: Callable[[str], None] | None = None,
        **values: object,
    ) -> Boot:
        given: dict[str, object] = {
            "device": self.device, "subvolume": None, "target": "/", "boot_id": "boot",
            "private": str(self.private), "now": now, "synchronised": True,
            "log": lambda line: None, "mount_point": str(self.sysroot), "budget": 60.0,
            "volumes": {"/persistent": str(self.volume)}, "root_flags": ["errors=remount-ro", "rw"],
            "prove": prove or self.proven.append, "previous": previous,
        }  # fmt: skip
        return Boot(**{**given, **values})  # type: ignore[arg-type]

    def wipe(self, now: float = NOON, **values: object) -> Outcome:
        unmount(self.sysroot)
        wiper = Overlay(self.settings)
        outcome = wiper.wipe(self.boot(now, **values))  # type: ignore[arg-type]
        assert wiper.is_fresh(str(self.sysroot), outcome.fresh)
        assert subprocess.run(["findmnt", "-R", self.private], capture_output=True).returncode
        return outcome

    @contextmanager
    def history(self, system: str = "") -> Iterator[UpperHistory]:
        history = Overlay(self.settings).history(
            Installed(
                device=self.device,
                private=str(self.private),
                writable=True,
                live=str(self.sysroot),
                root_flags=["errors=remount-ro"],
                volumes={"/persistent": str(self.volume)},
                system=system,
            )
        )
        with history:
            yield history

    def live(self) -> None:
        assert mark_boot_complete(Overlay(self.settings), self.sysroot)

    def assert_nothing_mounted(self) -> None:
        assert not os.path.ismount(self.sysroot)
        table = Path("/proc/self/mountinfo").read_text()
        assert f" {self.private}" not in table


class InstalledRoot:
    """The installed root itself, mounted for writing."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.where = machine.base / "installed"

    def __enter__(self) -> Path:
        mount(self.machine.device, self.where)
        return self.where

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", self.where], check=True)


@contextmanager
def overlay_machine(base: Path) -> Iterator[Machine]:
    images = [base / "root.img", base / "volume.img"]
    with loop_device(images[0], 32) as root, loop_device(images[1], 32) as volume:
        for device in (root, volume):
            subprocess.run(["mkfs.ext4", "-q", device], check=True)
        made = Machine(base, root, volume)
        yield made
        for place in (made.sysroot, made.volume):
            unmount(place)


def fill(volume: Path) -> list[Path]:
    """Leave no free block; return the empty directories, of one block each, that used the last
    ones.
    """
    number = len(list(volume.glob("fill-*")))
    directories: list[Path] = []
    for size in (1 << 20, 1 << 10, 0):
        with suppress(OSError):
            while True:
                path = volume / f"fill-{number}"
                number += 1
                if size:
                    path.write_bytes(bytes(size))
                else:
                    path.mkdir()
                    directories.append(path)
        os.sync()
    return directories
