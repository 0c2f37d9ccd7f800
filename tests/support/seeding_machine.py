"""A machine with a newly declared path, and causes for which seeding it fails.

The previous root is on a btrfs (a subvolume, or the layer of an overlay), the store on a separate
filesystem: an ext4, which supports neither files of 17 TiB nor attributes of 9 kB, or a btrfs with
a quota. Every failure comes from the kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import btrfsutil

from btrfs_image import DEFAULTS, NOON, fresh_disk, loop_device
from complete_boot import mark_boot_complete
from ephemeroot.errors import Refused
from ephemeroot.hooks import limits
from ephemeroot.hooks.__main__ import main
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.contract import Boot, Outcome
from ephemeroot.wipers.overlay import Overlay

STORE = "/persistent"
LAYERS = "/layers"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
UID = 4242
LIMIT = 1 << 20

WIPERS = ("btrfs", "overlay", "unmarked", "kept")
"""A rotation; layers on a volume; a wiper that cannot mark an old root, such as a rollback of ZFS;
and no wipe, by the kernel command line.
"""

WHOLE = ("full", "read-only", "quota", "unreadable")
SINGLE = ("size", "attribute", "bound", "depth")
DEADLINE = ("deadline",)


class Unmarked(Btrfs):
    """A wiper that cannot mark the old root: if a path cannot be seeded, nothing may be wiped."""

    __slots__ = ()

    @property
    def marks_kept(self) -> bool:
        return False


class Interrupted(Btrfs):
    """A wiper that ends after seeding, as after a power cut."""

    __slots__ = ()

    def wipe(self, boot: Boot) -> Outcome:
        hand_over = boot.previous

        def previous(path: str, complete: bool) -> bool:
            hand_over(path, complete)
            raise Refused("the power goes")

        boot.previous = previous
        return super().wipe(boot)


class SeedingMachine:
    """*kind* of entry (``directory``, ``bind``, ``copy``), belonging to root or to a user
    (*users*).
    """

    def __init__(self, base: Path, wiper: str, loop: str, top: Path, installed: str, store: str,
                 store_type: str, *, kind: str, users: bool) -> None:  # fmt: skip
        self.base = base
        self.wiper = wiper
        self.loop = loop
        self.top = top
        self.installed = installed
        self.store_device = store
        self.store_type = store_type
        self.kind = kind
        self.users = users
        self.run = base / "run/ephemeroot"
        self.target = base / "sysroot"
        self.private = base / "wiper"
        self.target.mkdir()
        self.private.mkdir()
        self.run.mkdir(parents=True)
        self.path = "/home/u/data" if users else "/srv/data"
        self.declared = False
        self.read_only = False
        self.attribute = ""
        self.boots = 0
        self.settings: dict[str, object] = DEFAULTS | {"base": "base"}
        if wiper == "overlay":
            options = {option.name: option.default for option in Overlay.OPTIONS}
            self.settings = options | {"volume": LAYERS}
        self.store = base / "store"
        self.store.mkdir()
        self.mount_store()
        marker = {"version": 1, "id": IDENTITY, "path": STORE}
        (self.store / ".ephemeroot-store").write_text(json.dumps(marker))

    # A machine in use

    def mount_store(self, options: str = "rw") -> None:
        words = ["-t", self.store_type, "-o", options, self.store_device]
        subprocess.run(["mount", *words, self.store], check=True)

    @staticmethod
    def fill_root(root: Path) -> None:
        for name in ("etc", "sbin", "srv", "home/u", "usr/lib", "persistent", "layers"):
            (root / name).mkdir(parents=True)
        (root / "usr/lib/os-release").write_text("ID=test\n")
        (root / "sbin/init").write_text("#!/bin/sh\n")
        (root / "sbin/init").chmod(0o755)
        os.chown(root / "home/u", UID, UID)

    def first_boot(self) -> Path:
        """A root that a wipe has made and whose boot will be complete, mounted at ``target``."""
        if self.wiper != "overlay":
            btrfsutil.create_subvolume(str(self.top / "base"))
            self.fill_root(self.top / "base")
            btrfsutil.create_snapshot(str(self.top / "base"), str(self.top / "root"))
        boot = Boot(
            device=self.installed if self.wiper == "overlay" else self.loop, subvolume="root",
            target="/", private=str(self.private), boot_id="first", now=NOON, synchronised=True,
            prove=lambda path: None, log=lambda line: None, mount_point=str(self.target),
            volumes={LAYERS: str(self.top)},
        )  # fmt: skip
        self.load().wipe(boot)
        if self.wiper != "overlay":
            self.mount_root()
        return self.target

    def load(self) -> Btrfs | Overlay:
        kind = Overlay if self.wiper == "overlay" else Btrfs
        return kind(self.settings)

    def mount_root(self) -> None:
        if not os.path.ismount(self.target):
            words = ["-o", "subvol=root", self.loop]
            subprocess.run(["mount", *words, self.target], check=True)

    def live(self) -> None:
        """Complete this boot, and switch the machine off."""
        assert mark_boot_complete(self.load(), self.target)
        self.switch_off()

    def switch_off(self) -> None:
        subprocess.run(["umount", "-R", self.target], check=False, capture_output=True)
        for name in ("persistent", "layers"):
            where = self.run / "volumes" / name
            subprocess.run(["umount", "-R", where], check=False, capture_output=True)
        self.boots += 1
        self.run = self.base / f"run{self.boots}/ephemeroot"
        self.run.mkdir(parents=True)

    # The declarations

    def operations(self) -> list[Operation]:
        source = self.path[1:]
        above = Parent(path="/srv", store=STORE, source="srv")
        parents: list[Operation] = [above]
        if self.users:
            parents = [
                Parent(path="/home", store=STORE, source="home"),
                Parent(path="/home/u", store=STORE, source="home/u", user=UID, group=UID,
                       mode=0o700),
            ]  # fmt: skip
        kinds: dict[str, type[Operation]] = {"directory": Directory, "bind": File, "copy": Copy}
        return [*parents, kinds[self.kind](path=self.path, store=STORE, source=source)]

    def plan(self) -> Plan:
        attributes = {
            "overlay": "ephemeroot.wipers.overlay:Overlay",
            "unmarked": "seeding_machine:Unmarked",
        }
        wipe: list[Operation] = [
            MountVolume(mount_point=STORE, name="persistent", device=self.store_device,
                   type=self.store_type, options=[]),
            Store(path=STORE, volume="persistent", id=IDENTITY),
        ]  # fmt: skip
        if self.wiper == "overlay":
            volume = MountVolume(mount_point=LAYERS, name="layers", device=self.loop, type="btrfs")
            wipe.insert(0, volume)
        attribute = attributes.get(self.wiper, "ephemeroot.wipers.btrfs:Btrfs")
        attribute = self.attribute or attribute
        kind = "overlay" if self.wiper == "overlay" else "btrfs"
        wipe.append(Wipe(target="/", wiper=kind, attribute=attribute, settings=self.settings))
        persist = [Attach(mount_point=STORE, volume="persistent")]
        return Plan(
            wipe=wipe,
            persist=[*persist, *(self.operations() if self.declared else [])],
            seed_limit=LIMIT,
        )

    # The stages

    def stage(self, name: str, *options: str) -> int:
        plan = self.base / "plan.json"
        plan.write_bytes(self.plan().dump())
        device = self.installed if self.wiper == "overlay" else self.loop
        words = f"root={device} rootflags=subvol=root"
        if self.wiper == "overlay":
            words = f"root={device}"
        if self.wiper == "kept":
            words += " ephemeroot.wipe=no"
        return main([name, "--plan", str(plan), "--target", str(self.target), "--run",
                     str(self.run), "--cmdline", words, *options])  # fmt: skip

    def boot(self) -> tuple[int, int]:
        """Both stages; their exit codes. The root is left mounted."""
        if self.read_only:
            # As the kernel makes it when a disk fails.
            volume = self.run / "volumes/persistent"
            volume.mkdir(parents=True)
            subprocess.run(["mount", self.store_device, volume], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", volume], check=True)
        wiped = self.stage("wipe")
        if self.wiper != "overlay":
            self.mount_root()
        elif not os.path.ismount(self.target):
            subprocess.run(["mount", self.installed, self.target], check=True)
        return wiped, self.stage("persist")

    def report(self, stage: str) -> dict[str, object]:
        content: dict[str, dict[str, object]] = json.loads((self.run / "boot.json").read_text())
        return content[stage]

    def said(self, stage: str) -> str:
        problems = self.report(stage)["problems"]
        assert isinstance(problems, list)
        return "\n".join(f"{one['problem']} [{one['hint']}]" for one in problems)

    # The results

    @property
    def history(self) -> Path:
        if self.wiper == "overlay":
            return self.top / "ephemeroot-overlay/old-uppers"
        return self.top / "old_roots"

    def old(self) -> list[str]:
        """The old roots that have the declared path, without the one that an installer made."""
        found = sorted(os.listdir(self.history)) if self.history.is_dir() else []
        return [name for name in found if os.path.lexists(self.history / name / self.path[1:])]

    def previous(self) -> Path:
        """The path in its former root, at its present place."""
        old = self.old()
        if old:
            return self.history / old[0] / self.path[1:]
        present = self.top / ("ephemeroot-overlay/upper" if self.wiper == "overlay" else "root")
        return present / self.path[1:]

    @property
    def stored(self) -> Path:
        return self.store / self.path[1:]

    # The failures

    def content(self) -> Path:
        """Create the declared paths in the present root; return the name of the file that will
        fail.
        """
        path = self.target / self.path[1:]
        if self.kind == "directory":
            path.mkdir(parents=True)
            for number in range(5):
                (path / f"good{number}").write_text("years of work\n")
            (path / "eve").mkdir()
            bad = path / "eve/bad"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            bad = path
        bad.write_text("years of work, too\n")
        return bad

    def spoil(self, failure: str, bad: Path) -> None:
        """Make *bad* fail to be seeded; root's own file stays root's."""
        if failure == "size":
            os.truncate(bad, 17 << 40)
        elif failure == "attribute":
            os.setxattr(bad, "user.large", b"a" * 9000)
        elif failure == "bound":
            bad.write_bytes(os.urandom(LIMIT + 1))
        elif failure == "depth":
            top = os.open(bad.parent, os.O_RDONLY)
            for _ in range(limits.DEPTH + 5):
                os.mkdir("d", dir_fd=top)
                deeper = os.open("d", os.O_RDONLY, dir_fd=top)
                os.close(top)
                top = deeper
            os.close(top)
        elif failure in ("full", "quota"):
            # More than the free space, and less than the limit.
            bad.write_bytes(os.urandom(LIMIT - (64 << 10)))
        elif failure == "unreadable":
            bad.write_bytes(b"this very file " * 5000)
        if self.users:
            subprocess.run(["chown", "-hR", f"{UID}:{UID}", self.target / self.path[1:]],
                           check=True)  # fmt: skip

    def strike(self, failure: str) -> None:
        """The failure that happens while the machine is off."""
        if failure == "full":
            with (self.store / "ballast").open("wb", buffering=0) as file:
                left = os.statvfs(self.store)
                size = left.f_bavail * left.f_frsize - (256 << 10)
                os.posix_fallocate(file.fileno(), 0, size)
        elif failure == "quota":
            subprocess.run(["btrfs", "quota", "enable", self.store], check=True)
            subprocess.run(["btrfs", "quota", "rescan", "-w", self.store], check=True,
                           capture_output=True)  # fmt: skip
            subprocess.run(["btrfs", "qgroup", "limit", "256k", self.store], check=True)
        elif failure == "read-only":
            self.read_only = True
        elif failure == "unreadable":
            self._corrupt()

    def _corrupt(self) -> None:
        """Change bytes of the file on the disk: its checksum no longer matches (EIO)."""
        subprocess.run(["umount", self.top], check=True)
        with (self.base / "image").open("r+b") as disk:
            raw = disk.read()
            at = raw.find(b"this very file this very file ")
            assert at > 0
            while at >= 0:
                disk.seek(at)
                disk.write(b"X")
                at = raw.find(b"this very file this very file ", at + (1 << 12))
        Path("/proc/sys/vm/drop_caches").write_text("3")
        subprocess.run(["mount", "-o", "subvolid=5", self.loop, self.top], check=True)


@contextmanager
def seeding_machine(
    base: Path, wiper: str, failure: str, *, kind: str, users: bool
) -> Iterator[SeedingMachine]:
    store_type = "btrfs" if failure == "quota" else "ext4"
    size = 128 if failure == "quota" else 24
    with fresh_disk(base, 160) as disk, loop_device(base / "store.img", size) as store:
        options = ["-q", "-F", "-m", "0"] if store_type == "ext4" else ["-q", "-f"]
        subprocess.run([f"mkfs.{store_type}", *options, store], check=True, capture_output=True)
        with loop_device(base / "installed.img", 16) as installed:
            subprocess.run(["mkfs.ext4", "-q", "-F", installed], check=True)
            subprocess.run(["mount", installed, disk.private], check=True)
            SeedingMachine.fill_root(disk.private)
            subprocess.run(["umount", disk.private], check=True)
            machine = SeedingMachine(base, wiper, disk.loop, disk.top, installed, store,
                                     store_type, kind=kind, users=users)  # fmt: skip
            try:
                yield machine
            finally:
                machine.switch_off()
                subprocess.run(["umount", machine.store], check=True)
