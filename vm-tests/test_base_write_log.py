"""A power cut at any write of `base run`, and between flushes in any order.

No machine boots: a real run installs a kernel and removes the previous one. The base is on a btrfs
and /boot on an ext4, both on one disk whose writes are logged; the log gives the disks that a cut
could have left. On each, the next run must give the base and the /boot from before, or both from
the run, and never a mixture. `EPHEMEROOT_CRASH_SECONDS` is the time for random orders (20), used
where everything is tried (`make proof`).
"""

from __future__ import annotations

import os
import random
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import proof
from base_machine import RUNNING, Machine, install
from btrfs_image import Disk
from loop_device import LoopDevice
from vm import loop, writelog
from vm.bench import Bench
from vm.command import run
from vm.writelog import Write

SIZE, BOOT_SIZE = 192 << 20, 16 << 20
NEW = "6.99.0-new"
SCRIPT = f"{install(NEW, removed=RUNNING)}\necho new > /etc/version; mkdir -p /opt/new"


class Laboratory:
    """A disk before its base is changed, ``base``, and room for the results, ``disk``."""

    def __init__(self, scratch: Path) -> None:
        self.base = scratch / "base.raw"
        self.disk = scratch / "disk.raw"
        self.top = scratch / "top"
        self.top.mkdir()
        run(["truncate", "--size", str(SIZE + BOOT_SIZE), self.base])
        run(["mkfs.btrfs", "--quiet", "--byte-count", str(SIZE), self.base])
        with LoopDevice(self.base, SIZE) as boot:
            run(["mkfs.ext4", "-q", boot.path])
        with LoopDevice(self.base) as device:
            loop.mount(device.path, self.top, "btrfs", "subvolid=5")
            disk = Disk(str(device.path), self.top, scratch / "private")
            self.machine = Machine(disk, scratch / "machine")
            files = {path.name: path.read_text() for path in self.machine.boot.iterdir()}
            run(["umount", self.top])
        with self.mounted_image(self.base):
            for name, text in files.items():
                (self.machine.boot / name).write_text(text)
            self.machine.create()
            done = self.machine.run("echo old > /etc/version")
            assert done.returncode == 0, done.stderr
        self.before = self.content(self.base)

    @contextmanager
    def mounted(self, device: Path) -> Iterator[None]:
        """The machine's filesystems on that device, mounted as the machine has them."""
        machine = self.machine
        with ExitStack() as stack:
            boot = stack.enter_context(LoopDevice(device, SIZE))
            for one, place, kind in (
                (device, self.top, "btrfs"),
                (boot.path, machine.boot, "ext4"),
            ):
                options = "subvolid=5" if kind == "btrfs" else ""
                loop.mount(one, place, kind, options)
                stack.callback(run, ["umount", place])
            settings = self.top / "root/etc/ephemeroot/ephemeroot.toml"
            if settings.exists():
                text = settings.read_text()
                settings.write_text(re.sub("/dev/loop[0-9]+", str(device), text))
            machine.disk.loop = str(device)
            yield

    @contextmanager
    def mounted_image(self, image: Path) -> Iterator[None]:
        with LoopDevice(image) as device, self.mounted(device.path):
            yield

    def content(self, image: Path) -> dict[str, str]:
        with self.mounted_image(image):
            return self.files()

    def files(self) -> dict[str, str]:
        """The base and /boot, without files that no run promises to keep."""
        found = {}
        for top in (self.machine.path, self.machine.boot):
            for path in sorted(top.rglob("*")):
                if "lost+found" not in path.parts and not path.is_symlink():
                    name = f"{top.name}/{path.relative_to(top)}"
                    found[name] = path.read_text() if path.is_file() else ""
        return found

    def change(self) -> None:
        done = self.machine.run(SCRIPT)
        assert done.returncode == 0, done.stderr

    def judge(self, writes: list[Write], after: dict[str, str]) -> bool:
        """Cut after these writes, run again; return whether the base is that of the run."""
        writelog.replay(self.base, writes, self.disk)
        with self.mounted_image(self.disk):
            version = (self.machine.path / "etc/version").read_text()
            assert version in ("old\n", "new\n"), "the name has one base or the other"
            again = self.machine.run("true")
            assert again.returncode == 0, again.stderr
            found = self.files()
            assert found in (self.before, after), _difference(found, self.before, after)
            assert self.machine.strays() == []
            kernel = found["boot/loader.conf"].split()[1]
            assert f"root-base/lib/modules/{kernel}/modules.dep" in found
        return found == after


def _difference(found: dict[str, str], *wanted: dict[str, str]) -> list[list[str]]:
    return [
        sorted(name for name in found.keys() | one.keys() if found.get(name) != one.get(name))
        for one in wanted
    ]


def test_a_cut_at_any_write_of_a_run(bench: Bench, scratch: Path) -> None:
    """Without a boot: the writes of `base run` are recorded and replayed on this host."""
    laboratory = Laboratory(scratch)
    run(["cp", laboratory.base, laboratory.disk])
    log = scratch / "log"
    with writelog.logged(bench.tools, laboratory.disk, log) as device, laboratory.mounted(device):
        laboratory.change()
        after = laboratory.files()
    assert after != laboratory.before
    assert shlex.join(after).count(NEW) >= 2
    writes = writelog.read(log)
    assert sum(write.durable for write in writes) >= 4, "a run without flushes proves nothing"

    prefixes = list(writelog.prefixes(writes))
    chosen = proof.sample(prefixes[1:-1], 10)
    states = [laboratory.judge(some, after) for some in (prefixes[0], *chosen, prefixes[-1])]
    assert not states[0]
    assert states[-1]
    assert states == sorted(states), "once it has taken the base's place, it stays"

    seed = random.randrange(1 << 32) if proof.is_whole() else 0
    print(f"{len(states)} of {len(prefixes)} prefixes; random orders with the seed {seed}")
    deadline = time.monotonic() + float(os.environ.get("EPHEMEROOT_CRASH_SECONDS") or "20")
    tried = 0
    for some in writelog.subsets(writes, random.Random(seed)):
        if tried >= 10 and not (proof.is_whole() and time.monotonic() < deadline):
            break
        try:
            laboratory.judge(some, after)
        except Exception as error:
            raise AssertionError(f"random order {tried} with the seed {seed}") from error
        tried += 1
    print(f"{tried} random orders")
    proof.record("power cut, any order of writes: base run", len(states) + tried)
