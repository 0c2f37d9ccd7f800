"""Every write that reached a disk, in order, and the disks that a power cut could have left.

`qemu-storage-daemon` puts its driver blklogwrites over a raw image and exports it by FUSE as a
file, over which there is a loop device: every write, flush and discard of a filesystem on it is
logged. The format is that of the kernel's dm-log-writes
(Documentation/admin-guide/device-mapper/log-writes.rst).
"""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from loop_device import LoopDevice
from vm.command import run
from vm.tools import Tools

_MAGIC = 0x6A736677736872
_HEAD = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _DISCARD = 1, 4


@dataclass(frozen=True)
class Write:
    """One entry: `data` at byte `offset`; `durable` means that all earlier writes were on
    the disk.
    """

    offset: int
    data: bytes
    durable: bool


@contextmanager
def logged(tools: Tools, image: Path, log: Path) -> Iterator[Path]:
    """A loop device over `image` whose writes are logged in `log`, which is complete when this has
    ended.
    """
    log.write_bytes(b"")
    export = image.with_suffix(".export")
    export.write_bytes(b"")
    daemon = tools.popen(
        [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,node-name=data,filename={image}"),
            *("--blockdev", f"driver=file,node-name=log,filename={log}"),
            *("--blockdev", "driver=blklogwrites,node-name=logged,file=data,log=log"),
            "--export",
            f"type=fuse,id=export,node-name=logged,writable=on,mountpoint={export}",
        ],
        (),
    )  # fmt: skip
    try:
        device = _attach(daemon, export, image.stat().st_size)
        backing = Path("/sys/block", device.path.name, "loop/backing_file")
        file = backing.read_text()
        try:
            yield device.path
        finally:
            device.close()
            _settle(backing, file)
    finally:
        daemon.terminate()
        daemon.wait(30)


def _attach(daemon: subprocess.Popen[bytes], export: Path, size: int) -> LoopDevice:
    """The export is a mount in the daemon's own namespace; a loop device is visible in all
    namespaces.
    """
    inside = Path(f"/proc/{daemon.pid}/root{export}")
    deadline = time.monotonic() + 30
    while True:
        try:
            if inside.stat().st_size == size:
                return LoopDevice(inside)
        except OSError:
            if daemon.poll() is not None:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"qemu-storage-daemon does not export {export}")
        time.sleep(0.02)


def _settle(backing: Path, file: str) -> None:
    """Wait until the loop device has released its *file*: the log ends with the last write."""
    deadline = time.monotonic() + 60
    while _read(backing) == file:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file.strip()} is still in use")
        time.sleep(0.02)


def _read(backing: Path) -> str:
    try:
        return backing.read_text()
    except OSError:  # there is no such file without a device
        return ""


def read(log: Path) -> list[Write]:
    """The writes in the log, with an empty one for each flush; discards are left out."""
    raw = log.read_bytes()
    magic, _, count, sector = _HEAD.unpack_from(raw)
    if magic != _MAGIC:
        raise ValueError(f"{log} is not a write log")
    found = []
    position = sector
    for _ in range(count):
        start, sectors, flags, _ = _ENTRY.unpack_from(raw, position)
        position += sector
        # The field for the data's length is that of marks; a discard has no data.
        end = position if flags & _DISCARD else position + sectors * sector
        data = raw[position:end]
        position = end
        if not flags & _DISCARD and (data or flags & _FLUSH):
            found.append(Write(start * sector, data, bool(flags & _FLUSH)))
    return found


def prefixes(writes: list[Write]) -> Iterator[list[Write]]:
    """The disk if all writes arrive in order: one more write each time."""
    for number in range(len(writes) + 1):
        if number == 0 or writes[number - 1].data:
            yield writes[:number]


def subsets(writes: list[Write], chance: random.Random) -> Iterator[list[Write]]:
    """Without end: all writes up to a flush, and any part of those between it and the next flush,
    in any order, because until a flush a disk may keep any of them. (A FUA write is treated like
    any other: that only adds states.)
    """
    flushes = [0, *(n + 1 for n, write in enumerate(writes) if write.durable), len(writes)]
    spans = [(a, b) for a, b in pairwise(flushes) if b - a > 1]
    while True:
        start, end = chance.choice(spans)
        between = [write for write in writes[start:end] if write.data]
        some = chance.sample(between, chance.randint(0, len(between)))
        # The disk may write one place twice only in the order of the requests.
        ordered = sorted(some, key=writes.index) if _overlap(some) else some
        yield [*writes[:start], *ordered]


def _overlap(writes: list[Write]) -> bool:
    ends = sorted((write.offset, write.offset + len(write.data)) for write in writes)
    return any(first[1] > second[0] for first, second in pairwise(ends))


def replay(base: Path, writes: list[Write], target: Path) -> None:
    """Write the disk `base` with those writes to `target`."""
    run(["cp", "--reflink=auto", "--sparse=always", base, target])
    with target.open("r+b") as disk:
        for write in writes:
            disk.seek(write.offset)
            disk.write(write.data)
