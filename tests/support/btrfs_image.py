"""A real btrfs on a loop device for the tests of the btrfs wiper, and rotations on it.

One filesystem serves a whole test module; each test gets a ``Site``, a directory on it with its own
root, old-roots and, if requested, base.
"""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from complete_boot import mark_boot_complete
from ephemeroot.errors import Refused
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.btrfs.history import SubvolumeHistory
from ephemeroot.wipers.contract import Boot, Outcome
from ephemeroot.wipers.history import Installed
from loop_device import attached

btrfsutil = pytest.importorskip(
    "btrfsutil", reason="needs btrfsutil: install the extra ephemeroot[btrfs]"
)

DAY = 86400
NOON = 1795435200  # 2026-11-23T12:00:00Z

DEFAULTS: dict[str, object] = {option.name: option.default for option in Btrfs.OPTIONS}


class Disk:
    """A btrfs on ``loop``, its top level mounted at ``top``."""

    def __init__(self, loop: str, top: Path, private: Path) -> None:
        self.loop = loop
        self.top = top
        self.private = private
        self.sites = itertools.count()

    def mount(self, subvolume: str, place: Path) -> None:
        """Mount that subvolume."""
        subprocess.run(["mount", "-o", f"subvol={subvolume}", self.loop, place], check=True)

    @contextmanager
    def mounted_root(self, place: Path) -> Iterator[Path]:
        """New subvolumes ``root`` and ``persistent``, the first mounted at the new directory
        *place*, in which there is a directory for the second.
        """
        for name in ("root", "persistent"):
            btrfsutil.create_subvolume(str(self.top / name))
        place.mkdir()
        self.mount("root", place)
        (place / "persistent").mkdir()
        try:
            yield place
        finally:
            subprocess.run(["umount", "-R", "-l", place], check=True)

    def site(self, name: str = "") -> Site:
        site = Site(self, name or f"site{next(self.sites)}")
        site.path.mkdir()
        return site

    def sync(self) -> None:
        btrfsutil.sync(str(self.top))


class Site:
    """A directory of a disk with a root to rotate."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk = disk
        self.name = name
        self.path = disk.top / name if name else disk.top
        self.root = self.path / "root"
        self.old_roots = self.path / "old_roots"
        self.settings = DEFAULTS | {"old-roots": f"{name}/old_roots".strip("/")}
        self.log: list[str] = []
        self.proven: list[str] = []

    @property
    def subvolume(self) -> str:
        return str(self.root.relative_to(self.disk.top))

    def with_root(self, content: str = "hello") -> Site:
        """Make a root as an installer does."""
        btrfsutil.create_subvolume(str(self.root))
        (self.root / "file").write_text(content)
        return self

    def with_base(self, content: str = "base") -> Site:
        base = self.path / "base"
        btrfsutil.create_subvolume(str(base))
        (base / "origin").write_text(content)
        self.settings["base"] = f"{self.name}/base".strip("/")
        return self

    def boot(
        self,
        now: float = NOON,
        *,
        synchronised: bool = False,
        target: str = "/",
        log: Callable[[str], None] | None = None,
        prove: Callable[[str], None] | None = None,
        previous: Callable[[str, bool], None] = lambda path, complete: None,
        request: str | None = None,
        budget: float = 60.0,
        dry_run: bool = False,
        pinned: tuple[str, ...] = (),
    ) -> Boot:
        return Boot(
            device=self.disk.loop,
            subvolume=self.subvolume,
            target=target,
            private=str(self.disk.private),
            boot_id="boot",
            now=now,
            synchronised=synchronised,
            prove=prove or self.proven.append,
            log=log or self.log.append,
            previous=previous,
            request=request,
            budget=budget,
            dry_run=dry_run,
            pinned=pinned,
        )

    def rotate(self, now: float = NOON, **boot: object) -> Outcome:
        """Wipe once. ``live`` marks the root as boot-complete."""
        return Btrfs(self.settings).wipe(self.boot(now, **boot))  # type: ignore[arg-type]

    def live(self, content: str = "") -> None:
        """The effect of a complete boot on the root."""
        if content:
            (self.root / "file").write_text(content)
        assert mark_boot_complete(Btrfs(self.settings), self.root)

    def boots(self, times: list[float], **boot: object) -> list[Outcome]:
        """Rotate at each of the *times*; each root becomes boot-complete."""
        outcomes = []
        for now in times:
            outcomes.append(self.rotate(now, **boot))
            self.live(f"made by the boot at {now}")
        return outcomes

    @contextmanager
    def history(self) -> Iterator[SubvolumeHistory]:
        history = Btrfs(self.settings).history(
            Installed(
                device=self.disk.loop,
                subvolume=self.subvolume,
                private=str(self.disk.private),
                writable=True,
                live=str(self.root),
            )
        )
        with history:
            yield history

    def old(self) -> list[str]:
        return sorted(os.listdir(self.old_roots)) if self.old_roots.exists() else []

    def retire(self, *names: str, nested: int = 0) -> None:
        """Create old roots with these *names*, as earlier rotations would."""
        self.old_roots.mkdir(exist_ok=True)
        for name in names:
            path = self.old_roots / name
            btrfsutil.create_subvolume(str(path))
            for number in range(nested):
                btrfsutil.create_subvolume(str(path / f"nested{number}"))

    def strays(self) -> list[str]:
        """Temporary names left beside the root or in old-roots."""
        return [name for name in [*os.listdir(self.path), *self.old()] if name.startswith(".")]


@contextmanager
def loop_device(image: Path, megabytes: int = 0) -> Iterator[str]:
    """A loop device on *image*, which is created with so many *megabytes* unless 0."""
    if megabytes:
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
    with attached(image) as path:
        yield str(path)


@contextmanager
def mounted(device: str, where: Path, options: str = "subvolid=5") -> Iterator[Path]:
    """Mount *device* at *where*, and unmount it at the end."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "btrfs", "-o", options, device, str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def mkfs(*devices: str, options: tuple[str, ...] = ()) -> None:
    subprocess.run(["mkfs.btrfs", "-q", "-f", *options, *devices], check=True, capture_output=True)


@contextmanager
def fresh_disk(directory: Path, megabytes: int = 256) -> Iterator[Disk]:
    """A new, empty btrfs, mounted."""
    private = directory / "private"
    private.mkdir(exist_ok=True)
    with loop_device(directory / "image", megabytes) as loop:
        mkfs(loop)
        with mounted(loop, directory / "top") as top:
            yield Disk(loop, top, private)


def subvolume_id(path: Path) -> int:
    return int(btrfsutil.subvolume_id(str(path)))


def uuid(path: Path) -> str:
    raw = btrfsutil.subvolume_info(str(path)).uuid.hex()
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


def listing(path: Path) -> dict[Path, int]:
    """The entries of *path*, two levels deep: a subvolume by its ID, other entries by inode."""
    found = {}
    for entry in [*path.iterdir(), *(e for d in path.iterdir() if d.is_dir() for e in d.iterdir())]:
        status = entry.lstat()
        is_subvolume = status.st_ino == 256 and stat.S_ISDIR(status.st_mode)
        found[entry] = subvolume_id(entry) if is_subvolume else status.st_ino
    return found


def refused(site: Site, message: str, values: dict[str, object] | None = None, **boot: Any) -> None:
    """The wipe is refused with a hint, and the disk is unchanged. *values* are attributes of the
    ``Boot`` that ``site.boot`` makes of *boot*.
    """
    before = listing(site.path)
    wanted = site.boot(**boot)
    for name, value in (values or {}).items():
        setattr(wanted, name, value)
    with pytest.raises(Refused, match=message) as refusal:
        Btrfs(site.settings).wipe(wanted)
    assert refusal.value.hint, refusal.value
    after = listing(site.path)
    after.pop(site.old_roots, None)  # which is created before the other conditions are proven
    before.pop(site.old_roots, None)
    assert after == before
    assert not (site.disk.private / "top").is_mount()
