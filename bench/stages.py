"""Time the two stages of a boot, compared with shell scripts and with C programs.

The measured stages are those of a boot: the packed files as the root directory, with entry point
and plan; each is a process. `recipe` is the shell recipe that rotates the root (recipe.sh) and a
script with `mkdir -p` and `mount --bind` for each directory (binds.sh). `floor` are C programs that
make the same hardened calls (rotation.c, binds.c), and prove and report nothing. `start` is the
bare interpreter that imports ctypes.

Every round starts from a copy of the same filesystem, and the kinds alternate. The figures are
medians in milliseconds, first elapsed, then on the processor; on a busy machine only the latter is
meaningful. Needs root; takes some minutes. `--quick` makes fewer rounds and leaves out the large
cases; `--json FILE` writes the figures for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from btrfs_image import DEFAULTS, Site, fresh_disk, loop_device
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import assembly
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.linux import devices
from measuring import Taken, interleaved, load, process

HERE = Path(__file__).resolve().parent
DEVICE = "/dev/bench"
STORE = "/persistent"
IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"
AGE = 60 * 86400

KINDS = ("stages", "recipe", "floor")


@dataclass(frozen=True)
class Case:
    """A number of declared directories, and a number of due old roots with *nested* subvolumes."""

    directories: int
    old_roots: int = 0
    nested: int = 0
    rounds: int = 12

    def __str__(self) -> str:
        nested = f" x {self.nested} nested" if self.nested else ""
        return f"{self.directories} directories, {self.old_roots} old roots{nested}"


CASES = (
    Case(10), Case(10, 1), Case(100), Case(1000, rounds=3), Case(10, 300, rounds=3),
    Case(10, 1000, 3, rounds=1),
)  # fmt: skip
QUICK = (Case(10, rounds=4), Case(100, rounds=4))


def plan(directories: int, filesystem: str) -> bytes:
    """The plan that `ephemeroot apply` writes for the machine of ``prepared``."""
    identity: dict[str, object] = {"filesystem": filesystem, "subvolume": "root"}
    volume = MountVolume(
        mount_point=STORE, name="persistent", device=DEVICE, type="btrfs",
        options=["subvol=persistent"],
    )  # fmt: skip
    wipe = Wipe(
        target="/", wiper="btrfs", attribute="ephemeroot.wipers.btrfs:Btrfs",
        settings=DEFAULTS | {"base": "root-base", "keep-last": 0}, identity=identity,
    )  # fmt: skip
    paths = [f"srv/d{number}" for number in range(directories)]
    return Plan(
        wipe=[volume, Store(path=STORE, volume="persistent", id=IDENTITY), wipe],
        persist=[
            Attach(mount_point=STORE, volume="persistent"),
            Parent(path="/srv", store=STORE, source="srv"),
            *(Directory(path=f"/{path}", store=STORE, source=path) for path in paths),
        ],
        generation=1,
    ).dump()


def prepared(folder: Path, case: Case, kind: str) -> Path:
    """A filesystem with a root, a store that has the directories, and old roots; the image."""
    import btrfsutil

    names = {"recipe": "%Y-%m-%d_%H:%M:%S", "floor": "due-%Y-%m-%dT%H-%M-%SZ"}
    folder.mkdir()
    with fresh_disk(folder, 1024) as disk:
        site = Site(disk, "").with_root()
        for name in ("etc", "sbin", "usr/lib", "persistent"):
            (site.root / name).mkdir(parents=True)
        (site.root / "usr/lib/os-release").write_text("ID=bench\n")
        (site.root / "sbin/init").write_text("#!/bin/sh\n")
        (site.root / "sbin/init").chmod(0o755)
        btrfsutil.create_snapshot(str(site.root), str(disk.top / "root-base"))
        store = disk.top / "persistent"
        btrfsutil.create_subvolume(str(store))
        marker = {"version": 1, "id": IDENTITY, "path": STORE}
        (store / ".ephemeroot-store").write_text(json.dumps(marker))
        for number in range(case.directories):
            (store / f"srv/d{number}").mkdir(parents=True)
        then = time.time() - AGE
        pattern = names.get(kind, "%Y-%m-%dT%H-%M-%SZ")
        old = [time.strftime(pattern, time.gmtime(then + n)) for n in range(case.old_roots)]
        site.old_roots.mkdir()
        site.retire(*old, nested=case.nested)
        for name in old:
            os.utime(site.old_roots / name, (then, then))
    return folder / "image"


class Machine:
    """Runs the stages: the packed tree as a root directory, with one disk at ``DEVICE``."""

    def __init__(self, folder: Path, top: Path, floor: Path) -> None:
        self.folder = folder
        self.top = top
        self.floor = floor
        self.python = next((top / "usr/bin").glob("python3.*"))
        for name in ("dev", "proc", "sys", "run", "sysroot", "tmp"):
            (top / name).mkdir(exist_ok=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if (top / "usr" / name).is_dir() and not (top / name).exists():
                (top / name).symlink_to(f"usr/{name}")
        mount("--bind", top, top)
        mount("--bind", "/proc", top / "proc")
        mount("--rbind", "/sys", top / "sys")
        mount("-t", "tmpfs", "none", top / "dev")
        os.mknod(top / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))

    @contextmanager
    def disk(self, image: Path) -> Iterator[str]:
        """A copy of *image* at ``DEVICE``, and an empty /run."""
        copy = self.folder / "disk"
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        mount("-t", "tmpfs", "none", self.top / "run")
        with loop_device(copy) as loop:
            os.mknod(self.top / DEVICE[1:], 0o600 | 0o060000, os.stat(loop).st_rdev)
            # The wipe looks for a hibernated system on each disk; here it is the only one, too.
            disks = self.top / "sys/class/block"
            mount("-t", "tmpfs", "none", disks)
            (disks / Path(loop).name).symlink_to(f"../../devices/virtual/block/{Path(loop).name}")
            try:
                yield loop
            finally:
                subprocess.run(["umount", disks], check=True)
                (self.top / DEVICE[1:]).unlink()
                subprocess.run(["umount", "-R", self.top / "run"], check=True)

    @contextmanager
    def sysroot(self, loop: str) -> Iterator[Path]:
        """The new root, mounted as the initramfs does it."""
        root = self.top / "sysroot"
        mount("-t", "btrfs", "-o", "subvol=root,ro", loop, root)
        try:
            yield root
        finally:
            subprocess.run(["umount", "-R", root], check=True)

    def stage(self, name: str) -> Taken:
        command = [
            f"/usr/bin/{self.python.name}", "-I", "-S", "-B", "/usr/lib/ephemeroot/boot.pyc", name,
            "--plan", "/usr/lib/ephemeroot/plan.json", "--target", "/sysroot",
            "--cmdline", f"root={DEVICE} rootflags=subvol=root ro",
        ]  # fmt: skip
        return process(command, root=self.top, environment={"PATH": "/usr/bin"})

    def stages(self, image: Path, case: Case) -> list[Taken]:
        with self.disk(image) as loop:
            wipe = self.stage("wipe")
            with self.sysroot(loop) as root:
                persist = self.stage("persist")
                require_bound(root, case)
        return [wipe, persist]

    def others(self, image: Path, case: Case, commands: tuple[Path, Path]) -> list[Taken]:
        """The same with two programs of the host: one rotates the root, one binds."""
        store = self.folder / "store"
        store.mkdir(exist_ok=True)
        with self.disk(image) as loop:
            wipe = process([commands[0], loop, self.folder / "mounted"])
            mount("-t", "btrfs", "-o", "subvol=persistent", loop, store)
            try:
                with self.sysroot(loop) as root:
                    bind = process([commands[1], store, root, str(case.directories)])
                    require_bound(root, case)
            finally:
                subprocess.run(["umount", store], check=True)
        return [wipe, bind]

    def measure(self, case: Case, images: dict[str, Path]) -> dict[str, list[Taken]]:
        """Both stages, or the equivalent programs, of each of ``KINDS``, and a bare start."""
        recipe = HERE / "recipe.sh", HERE / "binds.sh"
        floor = self.floor / "rotation", self.floor / "binds"
        runs: dict[str, Callable[[], list[Taken]]] = {
            "stages": lambda: self.stages(images["stages"], case),
            "recipe": lambda: self.others(images["recipe"], case, recipe),
            "floor": lambda: self.others(images["floor"], case, floor),
        }
        parts: dict[str, Taken] = {}

        def part(kind: str, number: int) -> Callable[[], Taken]:
            """The first part runs both and subtracts the second one's time."""

            def run() -> Taken:
                if number == 0:
                    first, parts[kind] = runs[kind]()
                    return first
                return parts[kind]

            return run

        kinds = {f"{kind} {number}": part(kind, number) for kind in KINDS for number in (0, 1)}
        kinds["start"] = lambda: process(
            [f"/usr/bin/{self.python.name}", "-I", "-S", "-B", "-c", "import ctypes"]
        )
        for kind in KINDS:
            runs[kind]()  # warms the caches
        found = interleaved(case.rounds, kinds)
        both = {kind: [found[f"{kind} 0"], found[f"{kind} 1"]] for kind in KINDS}
        return {**both, "start": [found["start"]]}


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def require_bound(root: Path, case: Case) -> None:
    """All have the same result: the last directory is mounted."""
    last = root / f"srv/d{case.directories - 1}"
    if not last.is_mount():
        raise RuntimeError(f"{last} is not mounted")


def compiled(folder: Path) -> None:
    """The C programs, built with the system's compiler."""
    for name, libraries in (("rotation", ["-lbtrfsutil"]), ("binds", [])):
        flags = ("-O2", "-Wall", "-Wextra", "-Werror")
        source = HERE / f"{name}.c"
        subprocess.run(["gcc", *flags, "-o", folder / name, source, *libraries], check=True)


def filesystem_of(image: Path) -> str:
    with loop_device(image) as loop:
        return devices.filesystem_uuid(loop) or ""


def row(case: Case, found: dict[str, list[Taken]]) -> dict[str, object]:
    """The figures of a case, in milliseconds."""
    kept: dict[str, object] = {
        "directories": case.directories, "old_roots": case.old_roots, "nested": case.nested,
    }  # fmt: skip
    for kind, parts in found.items():
        kept[kind] = [[round(1e3 * one.clock, 1), round(1e3 * one.processor, 1)] for one in parts]
    return kept


def show(case: Case, found: dict[str, list[Taken]]) -> None:
    print(f"\n{case} ({load()})")
    total = {kind: sum(parts, Taken(0, 0)) for kind, parts in found.items()}
    for kind, parts in found.items():
        clock = " + ".join(f"{1e3 * one.clock:.1f}" for one in parts)
        processor = " + ".join(f"{1e3 * one.processor:.1f}" for one in parts)
        print(f"  {kind:8} clock {clock:>18} ms, processor {processor:>18} ms")
    stages, recipe, floor, start = (total[k] for k in ("stages", "recipe", "floor", "start"))
    above = stages.processor - floor.processor - 2 * start.processor
    print(
        f"  stages / recipe: {stages.clock / recipe.clock:.2f} by the clock, "
        f"{stages.processor / recipe.processor:.2f} by the processor\n"
        f"  stages - floor - 2 starts: {1e3 * above:.1f} ms of the processor\n"
        f"  persist / binds in C: {found['stages'][1].clock / found['floor'][1].clock:.1f} by the "
        f"clock, {found['stages'][1].processor / found['floor'][1].processor:.1f} by the processor",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/stages.py needs root: it makes and mounts filesystems")
    if os.getpid() != 1:
        # As few processes as in an initramfs: the wipe inspects the mounts of each.
        alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        os.execvp(alone[0], [*alone, sys.executable, "-P", *sys.argv])
    rows = []
    with tempfile.TemporaryDirectory(prefix="ephemeroot-bench-") as name:
        folder = Path(name)
        compiled(folder)
        for number, case in enumerate(QUICK if arguments.quick else CASES):
            of_case = folder / str(number)
            of_case.mkdir()
            found = measured(of_case, folder, case)
            show(case, found)
            rows.append(row(case, found))
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measured(folder: Path, floor: Path, case: Case) -> dict[str, list[Taken]]:
    """Build the image for *case* and measure."""
    images = {kind: prepared(folder / kind, case, kind) for kind in KINDS}
    uuid = filesystem_of(images["stages"])
    made = assembly.put_together(folder / "tree", plan(case.directories, uuid), DracutTarget())
    if made.reason:
        sys.exit(made.reason)
    try:
        return Machine(folder, made.tree.top, floor).measure(case, images)
    finally:
        subprocess.run(["umount", "-R", "-l", made.tree.top], check=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
