"""Time one boot's wipe against the shell recipe and a small C program: rotation, and pruning
of many old roots.

Both do the same on filesystems made the same way, in the same run: mount the top level,
retire the root, delete the N old roots that are due (with their nested subvolumes), make a
fresh root, unmount. Needs root; takes about a minute. `--quick` leaves out the large cases.

The recipe runs as the shell script it is, the wiper as the process that boots run: a new
interpreter with the options of the boot entry. The C program (rotation.c) makes the calls that
nobody can do without and proves nothing: it shows what of the time is the kernel's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from btrfs_image import Disk, Site, fresh_disk

RECIPE = Path(__file__).resolve().parent / "recipe.sh"
FLOOR = Path(__file__).resolve().parent / "rotation.c"
KINDS = ("recipe", "wiper", "boot", "floor")
NAMES = {"recipe": "%Y-%m-%d_%H:%M:%S", "floor": "due-%Y-%m-%dT%H-%M-%SZ"}
COUNTS = (0, 1, 30, 300, 1000)
NESTED = (0, 3)
AGE = 60 * 86400

# What the boot entry does with a plan, without the plan: import, wipe, leave.
PROGRAM = """
import sys, time
sys.path[:0] = [{package!r}]
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.contract import Boot
settings = {settings!r}
boot = Boot(device={device!r}, subvolume="root", target="/", private={private!r}, boot_id="b",
    now=time.time(), synchronised=True, prove=lambda path: None, log=lambda line: None,
    budget={budget!r})
outcome = Btrfs(settings).wipe(boot)
assert not outcome.problems, outcome.problems
"""


def prepare(directory: Path, count: int, nested: int, kind: str) -> Path:
    """A filesystem with *count* old roots that are due, unmounted; the image's path."""
    with fresh_disk(directory, 1024) as disk:
        site = Site(disk, "").with_root()
        then = time.time() - AGE
        pattern = NAMES.get(kind, "%Y-%m-%dT%H-%M-%SZ")
        names = [time.strftime(pattern, time.gmtime(then + n)) for n in range(count)]
        site.old_roots.mkdir()
        site.retire(*names, nested=nested)
        for name in names:
            os.utime(site.old_roots / name, (then, then))
    return directory / "image"


def left(directory: Path, image: Path) -> int:
    """How many old roots are there now; the one that was just retired counts."""
    from btrfs_image import loop_device, mounted

    with loop_device(image) as loop, mounted(loop, directory / "top") as top:
        return len(Site(Disk(loop, top, directory / "private"), "").old())


def run(directory: Path, image: Path, command: list[str]) -> float:
    """Seconds that *command* takes, with ``LOOP`` in it replaced by a loop device."""
    from btrfs_image import loop_device

    with loop_device(image) as loop:
        command = [argument.replace("LOOP", loop) for argument in command]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def wiper(directory: Path, budget: float) -> list[str]:
    import ephemeroot

    program = PROGRAM.format(
        package=str(Path(ephemeroot.__file__).parent.parent),
        settings={"base": None, "old-roots": "old_roots", "keep-days": 30, "keep-last": 0},
        device="LOOP",
        private=str(directory / "private"),
        budget=budget,
    )
    # -S leaves out site-packages, where btrfsutil is.
    packages = f"import sys; sys.path.append({site_packages()!r})\n"
    # A boot has byte code in its image; here the interpreter keeps it after the first run.
    return [sys.executable, "-I", "-S", "-c", packages + program]


def site_packages() -> str:
    import btrfsutil

    return str(Path(btrfsutil.__file__).parent)


def compiled(directory: Path) -> Path:
    """The C program, built with the system's compiler."""
    program = directory / "rotation"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *flags, "-o", program, FLOOR, "-lbtrfsutil"], check=True)
    return program


def measure(count: int, nested: int, repeat: int, floor: Path) -> dict[str, float]:
    """The best of *repeat* for each of ``KINDS``; ``boot`` is the wiper with a boot's budget."""
    best = dict.fromkeys(KINDS, float("inf"))
    for _ in range(repeat):
        for kind in KINDS:
            directory = Path(tempfile.mkdtemp(prefix="ephemeroot-bench-"))
            try:
                image = prepare(directory, count, nested, kind)
                commands = {
                    "recipe": [str(RECIPE), "LOOP", str(directory / "mounted")],
                    "floor": [str(floor), "LOOP", str(directory / "mounted")],
                    "wiper": wiper(directory, 600.0),
                    "boot": wiper(directory, 1.0),
                }
                best[kind] = min(best[kind], run(directory, image, commands[kind]))
                if kind != "boot":
                    found = left(directory, image)
                    assert found == 1, f"{kind}: {found} old roots are left"
            finally:
                shutil.rmtree(directory)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only up to 30 old roots")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/rotation.py needs root: it makes and mounts filesystems")
    with tempfile.TemporaryDirectory(prefix="ephemeroot-bench-") as folder:
        table(compiled(Path(folder)), COUNTS[:3] if arguments.quick else COUNTS)


def table(floor: Path, counts: tuple[int, ...]) -> None:
    """A line for each number of old roots, and what each further one costs."""
    measure(0, 0, 1, floor)  # warms the caches
    print("old roots nested     recipe          C      wiper  recipe/wiper  wiper/C  budget 1 s")
    for nested in NESTED:
        none: dict[str, float] = {}
        for count in counts:
            took = measure(count, nested, 3 if count <= 30 else 1, floor)
            none = none or took
            times = " ".join(f"{took[kind] * 1e3:7.1f} ms" for kind in ("recipe", "floor", "wiper"))
            print(
                f"{count:9} {nested:6} {times} {took['recipe'] / took['wiper']:12.1f}x "
                f"{took['wiper'] / took['floor']:7.1f}x {took['boot'] * 1e3:8.1f} ms",
                flush=True,
            )
            if count:
                each = {kind: 1e3 * (took[kind] - none[kind]) / count for kind in KINDS}
                print(
                    f"{'each':>16} {each['recipe']:7.3f} ms {each['floor']:7.3f} ms "
                    f"{each['wiper']:7.3f} ms"
                )


if __name__ == "__main__":
    main()
