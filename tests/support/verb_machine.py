"""A small machine in use, prepared once and copied for each case.

It is a btrfs on a loop device with a root that a boot made, two old roots and one of another
program, a base and an old base, and a store whose paths are bound over the root. The real programs
made all of them, and the test adds different content to each. A case gets a copy of the image and a
process 1 (`machine_init`) for which the root on it is the root directory, so that every verb runs
as on a booted machine, and everything ends with that process.
"""

from __future__ import annotations

import compileall
import dataclasses
import hashlib
import json
import os
import re
import select
import shutil
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ephemeroot
import programs
from btrfs_image import btrfsutil, subvolume_id
from checkout import CHECKOUT
from ephemeroot.hooks.guards import ownership
from loop_device import LoopDevice
from system_calls import Event, Moment

PROGRAM = str(Path(sys.executable).parent / "ephemeroot")
RUNNING = os.uname().release

HANGS = 300
"""Seconds after which a program is considered to hang."""

USER = 4242
HOME = "/home/talyz"
OLDEST, NEWEST = "2026-02-01T00-00-00Z", "2026-03-01T00-00-00Z"
RECIPE = "2024-03-7_09:05:01"
OLD_BASE = "2026-02-10T00-00-00Z"

COMMAND_LINE = "root=UUID=@UUID@ rootflags=subvol=root ro"

CONFIGURATION = """\
[root]
wiper = "btrfs"
[root.btrfs]
device = "UUID=@UUID@"
subvolume = "root"
base = "root-base"
[[volumes]]
mount-point = "/persistent"
device = "UUID=@UUID@"
type = "btrfs"
options = ["subvol=persistent"]
[persistence."/persistent"]
directories = [
  "/etc/ephemeroot", "/var/log", "/srv/data", { directory = "/srv/linked", method = "symlink" },
]
files = [
  "/etc/machine-id", "/etc/hostname", { file = "/etc/adjtime", method = "copy" },
]
"""

HOME_CONFIGURATION = """\
[persistence."/persistent/home/talyz"]
directories = ["Music", { directory = ".local/share/Steam", method = "symlink" }]
files = [".screenrc"]
"""

FILES = {
    "etc/os-release": 'ID=test\nPRETTY_NAME="Test 1"\n',
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\ntalyz:x:{USER}:{USER}::{HOME}:/bin/sh\n",
    "etc/group": f"root:x:0:\ntalyz:x:{USER}:\n",
    "etc/fstab": "UUID=@UUID@ / btrfs subvol=root 0 0\n"
    "UUID=@UUID@ /persistent btrfs subvol=persistent 0 0\n",
    "etc/machine-id": "00112233445546778899aabbccddeeff\n",
    "etc/hostname": "box\n",
    "etc/adjtime": "0.0 0 0.0\n",
    "etc/kernel/cmdline": f"{COMMAND_LINE}\n",
    "etc/ephemeroot/ephemeroot.toml": CONFIGURATION,
    "etc/dracut.conf": "",
    "sbin/init": "#!/bin/sh\n",
    f"lib/modules/{RUNNING}/modules.dep": "",
    "var/log/syslog": "first line\n",
    "srv/data/thesis": "years of work\n" * 400,
    "srv/app/data": "of the application\n",
    "srv/app/deep/er/file": "deep\n",
    f"{HOME[1:]}/.config/ephemeroot/home.toml": HOME_CONFIGURATION,
    f"{HOME[1:]}/letter": "dear\n",
    f"{HOME[1:]}/.bashrc": "alias ll='ls -l'\n",
}
BOOT_FILES = {f"vmlinuz-{RUNNING}": f"kernel {RUNNING}", "loader.conf": f"default {RUNNING}\n"}


def sh(*words: str | Path) -> str:
    """Run a program of the host that must succeed; return its output."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Ended:
    """A program that ended: its exit ``code`` (negative: the signal that killed it).

    If it was traced: its ``calls`` of `system_calls.CALLS`, each with its paths, and whether the
    moment of the signal was ``met``.
    """

    code: int
    out: str
    err: str
    calls: list[tuple[Event, str]] = field(default_factory=list)
    met: bool = False


class VerbMachine:
    """The machine whose image and files are in *folder*, running until ``close``.

    *subvolume* is mounted as its root directory; without one it is an initramfs. With *booted* the
    store is mounted and bound as by the persistence stage of the last boot.
    """

    def __init__(self, folder: Path, *, subvolume: str = "root", booted: bool = True) -> None:
        self.folder = folder
        self.top = folder / "top"
        self.uuid = (folder / "uuid").read_text()
        for name in ("top", "root", "usr/work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._open(subvolume, booted=booted)

    def _open(self, subvolume: str, *, booted: bool) -> None:
        self._device = LoopDevice(self.folder / "image")
        self.loop = str(self._device.path)
        self._init: programs.Machine | None = None
        try:
            sh("mount", "-t", "btrfs", "-o", "subvolid=5", self.loop, self.top)
            self._start(subvolume, booted=booted)
        except BaseException:
            self.close()
            raise

    def _start(self, subvolume: str, *, booted: bool) -> None:
        binds = folder_binds(self.folder) if booted else []
        layout = {
            "root": str(self.folder / "root"),
            "loop": self.loop,
            "uuid": self.uuid,
            "subvolume": subvolume,
            "usr": str(self.folder / "usr"),
            "run": str(self.folder / "run"),
            "boot": str(self.folder / "boot"),
            "cmdline": str(self.folder / "cmdline"),
            "checkout": str(CHECKOUT),
            "store": bool(subvolume),
            "binds": binds,
        }
        self._init = programs.Machine(layout)
        if self._init.stdout.readline() != "ready\n":
            raise RuntimeError(f"no machine: {self._init.communicate()}")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        self.first = int(children.read_text().split()[0])

    def inside(self, path: str) -> Path:
        """The machine's *path* as the test sees it, through its mounts."""
        return Path(f"/proc/{self.first}/root{path}")

    def run(
        self,
        *words: str,
        environment: dict[str, str] | None = None,
        user: int = 0,
        daemons: Sequence[str] = (),
        traced: bool = False,
        moment: Moment | None = None,
        forked: bool = False,
    ) -> Ended:
        """Run a program in the machine, as root or as *user*, until it and all processes that it
        started have ended, except *daemons*. With *forked* the program is ours, and runs as a fork
        of a process that has imported it instead of starting an interpreter.
        """
        home = HOME if user else "/root"
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            **(environment or {}),
        }  # fmt: skip
        argv = [*words]
        if user and not forked:
            argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                    "--inh-caps=-all", *argv]  # fmt: skip
        request: dict[str, Any] = {
            "argv": argv, "env": variables, "daemons": list(daemons), "forked": forked,
            "user": user,
        }  # fmt: skip
        if traced or moment is not None:
            request["moment"] = None if moment is None else dataclasses.asdict(moment)
        assert self._init is not None
        self._init.stdin.write(json.dumps(request) + "\n")
        self._init.stdin.flush()
        if not select.select([self._init.stdout], [], [], HANGS)[0]:
            raise AssertionError(f"{argv} is still running after {HANGS} s")
        line = self._init.stdout.readline()
        if not line:
            raise RuntimeError(f"the machine ended: {self._init.communicate()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        code = os.waitstatus_to_exitcode(answer["status"])
        calls = [(Event(**event), words) for event, words in answer.get("events", ())]
        return Ended(code, answer["out"], answer["err"], calls, answer.get("met", False))

    def ephemeroot(self, *words: str, **options: Any) -> Ended:
        """Run the program, forked."""
        return self.run(PROGRAM, *words, forked=True, **options)

    def must(self, *words: str, **options: Any) -> str:
        """Run the program, which must succeed; return its output."""
        done = self.ephemeroot(*words, **options)
        assert done.code == 0, f"{words}: {done.out}{done.err}"
        return done.out

    def mounts(self) -> list[str]:
        """All mounts in the machine: a line with root, point and type for each, sorted.

        Without the subtypes of FUSE: libfuse mounts without a subtype if fusermount fails with it
        (lib/mount.c, fuse_kern_mount).
        """
        lines = Path(f"/proc/{self.first}/mountinfo").read_text().splitlines()
        fields = [line.split() for line in lines]
        ours = f"/{self.folder.name}/"  # of the files that a copy has beside its image
        types = [re.sub(r"^fuse\..*", "fuse", f[f.index("-") + 1]) for f in fields]
        return sorted(
            f"{f[3].rpartition(ours)[2]} {f[4]} {type_}"
            for f, type_ in zip(fields, types, strict=True)
        )

    def state(self) -> dict[str, Entry]:
        """Everything that lasts, see ``state_of``; also ``/run``, which has the records of the
        boot.
        """
        return state_of({
            "disk": self.top,
            "boot": self.folder / "boot",
            "usr": self.folder / "usr/upper",
            "run": self.folder / "run/ephemeroot",
        })  # fmt: skip

    def reboot(self, *, ephemeral: bool = True) -> None:
        """Power off and on: the stages of a boot, unless the images do not contain Ephemeroot."""
        self.close()
        if ephemeral:
            _boot(self.folder)
        else:
            shutil.rmtree(self.folder / "run")
            (self.folder / "run").mkdir()
        self._open("root", booted=ephemeral)

    def close(self) -> None:
        """End every process of the machine, and with them its mounts; free the device.

        Raises ``AssertionError`` if another process still has the filesystem mounted.
        """
        if self._init is not None:
            self._init.communicate()  # it ends when there is nothing to read
            self._init = None
        subprocess.run(["umount", self.top], capture_output=True, check=False)
        self._device.close()
        backing = Path(f"/sys/block/{os.path.basename(self.loop)}/loop/backing_file")
        deadline = time.monotonic() + 20  # the kernel destroys a dead namespace by itself
        while (held := _read(backing)) and held.startswith(str(self.folder)):
            assert time.monotonic() < deadline, f"{self.loop} is still in use"
            time.sleep(0.002)
        subprocess.run(
            ["btrfs", "device", "scan", "--forget", self.loop], capture_output=True, check=False
        )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def folder_binds(folder: Path) -> list[list[str]]:
    """The binds of the last boot's persistence stage, as source and target in the root."""
    binds: list[list[str]] = json.loads((folder / "binds.json").read_text())
    return binds


# The content of the disk


@dataclass(frozen=True)
class Entry:
    """One name: its type, its owner, and a digest of its content. ``time`` is a file's mtime."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str
    attributes: tuple[tuple[str, str], ...]
    time: int

    @property
    def alike(self) -> tuple[object, ...]:
        """Everything except times and identities, which differ between two runs of one verb."""
        attributes = tuple(
            (name, bytes.fromhex(value).split()[0] if name == "trusted.ephemeroot.state" else value)
            for name, value in self.attributes
            if name != "trusted.ephemeroot.seen"
        )
        return (self.kind, self.mode, self.owner, self.content, attributes)

    def __str__(self) -> str:
        owner = f"{self.owner[0]}:{self.owner[1]}"
        return f"{self.kind} {self.mode:o} {owner} {self.content[:40]} {dict(self.attributes)}"


def state_of(trees: dict[str, Path]) -> dict[str, Entry]:
    """Every name below each of *trees*, by ``TREE/path``, with all properties that a
    restore needs.
    """
    found = {}
    todo = [(name, path) for name, path in trees.items() if path.exists()]
    while todo:
        name, path = todo.pop()
        found[name] = entry = _entry(path, on_btrfs=name.startswith("disk"))
        if entry.kind in ("directory", "subvolume"):
            todo += [(f"{name}/{one}", path / one) for one in os.listdir(path)]
    return found


def _entry(path: Path, *, on_btrfs: bool) -> Entry:
    status = path.lstat()
    kind, content, when = "other", "", 0
    if stat.S_ISDIR(status.st_mode):
        kind = "subvolume" if on_btrfs and status.st_ino == 256 else "directory"
    elif stat.S_ISLNK(status.st_mode):
        kind, content = "link", os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        kind, content = "file", hashlib.sha256(path.read_bytes()).hexdigest()
        when = status.st_mtime_ns
    else:
        content = f"{stat.S_IFMT(status.st_mode):o} {status.st_rdev}"
    attributes = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False).hex())
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if not name.startswith("trusted.overlay.")  # of the layer that contains it
    )
    mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
    return Entry(kind, mode, owner, content, attributes, when)


# Making it


class Image:
    """The machine as every case finds it, below *folder*, and the variants that some cases need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._variants: dict[str, Path] = {}
        self._copies = 0
        # For some thousand runs of the program, none of which may write this file itself.
        compileall.compile_dir(str(Path(ephemeroot.__file__).parent), quiet=2)
        ready = folder / "ready"
        (ready / "run").mkdir(parents=True)
        (ready / "boot").mkdir()
        (ready / "usr/upper").mkdir(parents=True)
        _build(ready)
        self._variants[""] = ready

    @contextmanager
    def machine(
        self, name: str = "", prepare: Callable[[VerbMachine], None] | None = None,
        *, booted: bool = True,
    ) -> Iterator[VerbMachine]:  # fmt: skip
        """A running copy of the machine; *prepare* has changed it, once for all calls with the same
        *name*.
        """
        if name not in self._variants:
            assert prepare is not None
            made = self._copy("")
            machine = VerbMachine(made)
            try:
                prepare(machine)
            finally:
                machine.close()
            self._variants[name] = made
        folder = self._copy(name)
        machine = VerbMachine(folder, booted=booted)
        try:
            yield machine
        finally:
            machine.close()
            shutil.rmtree(folder)

    def _copy(self, name: str) -> Path:
        self._copies += 1
        folder = self.folder / str(self._copies)
        sh("cp", "-a", "--sparse=always", self._variants[name], folder)
        return folder


def _build(folder: Path) -> None:
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    # A separate one: tests in other processes have one mounted at the same time.
    identity = str(uuid.uuid4())
    (folder / "uuid").write_text(identity)
    sh("mkfs.btrfs", "-q", "-U", identity, image)
    for name, text in BOOT_FILES.items():
        (folder / "boot" / name).write_text(text)
    (folder / "binds.json").write_text("[]")
    (folder / "cmdline").write_text(COMMAND_LINE.replace("@UUID@", identity) + "\n")
    init = folder / "usr/upper/sbin/init"
    init.parent.mkdir()
    init.write_text("#!/bin/sh\n")
    init.chmod(0o755)
    _install(folder, identity)
    machine = VerbMachine(folder)
    try:
        # The base is made from a root to which the plan has been applied, and `apply` needs a base.
        btrfsutil.create_subvolume(str(machine.top / "root-base"))
        machine.must("apply", "--yes", "--no-images")
        btrfsutil.delete_subvolume(str(machine.top / "root-base"))
        machine.must("base", "create")
        machine.must("base", "run", "--", "sh", "-c", "echo one > /etc/version")
    finally:
        machine.close()
    for number in range(2):
        _boot(folder)
        machine = VerbMachine(folder)
        try:
            _live(machine, number)
        finally:
            machine.close()
    _name(folder)


def _install(folder: Path, identity: str) -> None:
    """The files of an installer, and of an administrator before the first boot."""
    top = folder / "top"
    top.mkdir()
    sh("mount", "-t", "btrfs", "-o", "loop,subvolid=5", folder / "image", top)
    try:
        for name in ("root", "persistent"):
            btrfsutil.create_subvolume(str(top / name))
        root = top / "root"
        for name in ("boot", "dev", "persistent", "proc", "root", "run", "sys", "tmp", "usr",
                     "mnt", "opt"):  # fmt: skip
            (root / name).mkdir(parents=True)
        # Empty except for the mount: an overlay over content is considered an extension.
        for name in ("bin", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "etc").mkdir()
        (root / "etc/mtab").symlink_to("/proc/self/mounts")
        (root / "lib").mkdir()
        for libraries in Path("/usr/lib").glob("*-linux-gnu*"):
            (root / "lib" / libraries.name).symlink_to(f"../usr/lib/{libraries.name}")
        for name, text in FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("@UUID@", identity))
        shutil.copy("/etc/ld.so.cache", root / "etc/ld.so.cache")
        (root / "sbin/init").chmod(0o755)
        os.setxattr(root / "srv/app/data", "user.origin", b"the network")
        (root / "srv/app/deep").chmod(0o710)
        os.chown(root / "srv/app/deep/er/file", USER, 0)
        _own(root / HOME[1:])
        store = top / "persistent"
        for name in ("var/log", "srv/data", "srv/linked", "home/talyz/Music"):
            (store / name).mkdir(parents=True)
        (store / "srv/data/thesis").write_text(FILES["srv/data/thesis"])
        (store / "srv/linked/notes").write_text("notes\n")
        (store / "home/talyz/Music/song").write_text("la\n")
        _own(store / "home/talyz")
        (top / "old_roots").mkdir()
        old = top / "old_roots" / RECIPE
        btrfsutil.create_subvolume(str(old))
        (old / "file").write_text("of the recipe\n")
        btrfsutil.create_subvolume(str(old / "nested"))
        (old / "nested/file").write_text("nested\n")
    finally:
        sh("umount", top)


def _own(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)


def _boot(folder: Path) -> None:
    """A boot by the real stages, each in a process, in a directory that represents an initramfs."""
    shutil.rmtree(folder / "run")
    (folder / "run").mkdir()
    machine = VerbMachine(folder, subvolume="", booted=False)
    try:
        plan = machine.top / "root/etc/ephemeroot/plan.json"
        machine.inside("/etc/plan.json").write_bytes(plan.read_bytes())
        for stage in ("wipe", "persist"):
            done = machine.run(
                sys.executable, "-P", "-m", "ephemeroot.hooks", stage, "--plan", "/etc/plan.json",
                "--target", "/sysroot", "--cmdline",
                COMMAND_LINE.replace("@UUID@", machine.uuid),
            )  # fmt: skip
            assert done.code == 0, f"{stage}: {done.out}{done.err}"
            if stage == "wipe":
                words = ("mount", "-o", "subvol=root", machine.loop, "/sysroot")
                assert machine.run(*words).code == 0
        binds = []
        for line in Path(f"/proc/{machine.first}/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[4].startswith("/sysroot/") and fields[4] != "/sysroot/persistent":
                binds.append([fields[3], fields[4].removeprefix("/sysroot")])
        assert all(source.startswith("/persistent/") for source, _ in binds), binds
        (folder / "binds.json").write_text(json.dumps(binds))
        shutil.rmtree(folder / "run/ephemeroot/volumes", ignore_errors=True)
        _forget_mount(folder / "run/ephemeroot")
    finally:
        machine.close()


def _forget_mount(run: Path) -> None:
    """Remove the identity of the root's mount from the records: each copy of the machine has
    another one.
    """
    (run / ownership.MOUNTED).unlink(missing_ok=True)
    copies = run / "copies"
    if copies.exists():
        content = json.loads(copies.read_text())
        copies.write_text(json.dumps({**content, "root": ""}))


def _live(machine: VerbMachine, number: int) -> None:
    """Users and programs write during a boot; then the boot is complete."""
    root = machine.inside("/")
    for name, text in {
        "etc/note": f"of boot {number}\n",
        "srv/forgotten/file": f"made by boot {number}\n",
        f"var/log/boot{number}": "log\n",
        "srv/data/kept": f"kept since boot {number}\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    machine.must("boot-complete")


def _name(folder: Path) -> None:
    """Replace names made from the clock with names that a test can contain."""
    top = folder / "top"
    sh("mount", "-t", "btrfs", "-o", "loop,subvolid=5", folder / "image", top)
    try:
        names = sorted(
            set(os.listdir(top / "old_roots")) - {RECIPE},
            key=lambda name: subvolume_id(top / "old_roots" / name),
        )
        for old, new in zip(names, (OLDEST, NEWEST), strict=True):
            os.rename(top / "old_roots" / old, top / "old_roots" / new)
        (old_base,) = os.listdir(top / "old_bases")
        os.rename(top / "old_bases" / old_base, top / "old_bases" / OLD_BASE)
    finally:
        sh("umount", top)
