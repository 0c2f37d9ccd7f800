"""A power cut at every single write of a rotation, and between flushes in any order.

No machine boots: the real wiper rotates a real btrfs whose writes are logged; the log gives the
disks that a cut could have left. On each, the next boot's rotation must find the previous root or a
fresh one under the root's name, lose neither, and leave nothing behind. `EPHEMEROOT_CRASH_SECONDS`
is the time for random orders after all prefixes (20).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import proof
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.contract import Boot
from vm import writelog
from vm.bench import Bench
from vm.command import run
from vm.loop import attached, mounted
from vm.writelog import Write

NOON = 1795435200  # 2026-11-23T12:00:00Z
INSTALLED = "of the installed system\n"
OF_BASE = "of the base\n"

SETTINGS: dict[str, object] = {option.name: option.default for option in Btrfs.OPTIONS}


class Laboratory:
    """A disk before its rotation, `base`, and room for the results."""

    def __init__(self, scratch: Path) -> None:
        self.base = scratch / "base.raw"
        self.disk = scratch / "disk.raw"
        self.private = scratch / "private"
        self.private.mkdir()
        run(["truncate", "--size", "128M", self.base])
        run(["mkfs.btrfs", "--quiet", self.base])
        with mounted(self.base) as top:
            for name, content in (("root", INSTALLED), ("root-base", OF_BASE)):
                run(["btrfs", "subvolume", "create", top / name])
                (top / name / "file").write_text(content)
                run(["btrfs", "subvolume", "create", top / name / "nested"])

    def rotate(self, device: Path, now: float) -> None:
        outcome = Btrfs(SETTINGS | {"base": "root-base"}).wipe(
            Boot(device=str(device), subvolume="root", target="/", private=str(self.private),
                 boot_id="boot", now=now, synchronised=True, prove=lambda path: None,
                 log=lambda line: None)
        )  # fmt: skip
        assert outcome.problems == []

    def judge(self, writes: list[Write]) -> str:
        """Cut after these writes, inspect, boot again; return which root had the root's name."""
        writelog.replay(self.base, writes, self.disk)
        with attached(self.disk) as device:
            with self._top(device) as top:
                found = (top / "root/file").read_text()
                assert found in (INSTALLED, OF_BASE)
                assert (top / "root-base/file").read_text() == OF_BASE
            self.rotate(device, NOON + 60)
            with self._top(device) as top:
                assert (top / "root/file").read_text() == OF_BASE
                assert not [path.name for path in top.iterdir() if path.name.startswith(".")]
                old = {path.name: path for path in (top / "old_roots").iterdir()}
                kept = [n for n, path in old.items() if (path / "file").read_text() == INSTALLED]
                assert len(kept) == 1, old
                assert kept[0].endswith(".keep")
                assert (old[kept[0]] / "nested").is_dir()
                unused = [name for name in old if name not in kept]
                assert all(name.endswith(".unused") for name in unused), old
        return found

    @contextmanager
    def _top(self, device: Path) -> Iterator[Path]:
        folder = self.private / "look"
        folder.mkdir(exist_ok=True)
        run(["mount", "-t", "btrfs", "-o", "subvolid=5", device, folder])
        try:
            yield folder
        finally:
            run(["umount", folder])


def test_a_power_cut_at_every_write(bench: Bench, scratch: Path) -> None:
    """Without a boot: the writes of a rotation are recorded and replayed on this host."""
    laboratory = Laboratory(scratch)
    run(["cp", laboratory.base, laboratory.disk])
    log = scratch / "log"
    with writelog.logged(bench.tools, laboratory.disk, log) as device:
        laboratory.rotate(device, NOON)
    writes = writelog.read(log)
    assert sum(write.durable for write in writes) >= 2, "a rotation without flushes proves nothing"

    states = [laboratory.judge(some) for some in writelog.prefixes(writes)]
    assert states[0] == INSTALLED
    assert states[-1] == OF_BASE
    assert states == sorted(states, key=[INSTALLED, OF_BASE].index), "once fresh, it stays fresh"

    seed = random.randrange(1 << 32)
    print(f"{len(states)} prefixes of {len(writes)} writes; random orders with the seed {seed}")
    deadline = time.monotonic() + float(os.environ.get("EPHEMEROOT_CRASH_SECONDS") or "20")
    tried = 0
    for some in writelog.subsets(writes, random.Random(seed)):
        if time.monotonic() > deadline:
            break
        try:
            laboratory.judge(some)
        except Exception as error:
            raise AssertionError(f"random order {tried} with the seed {seed}") from error
        tried += 1
    assert tried > 0
    print(f"{tried} random orders")
    proof.record("power cut, any order of writes: btrfs rotation", len(states) + tried)
