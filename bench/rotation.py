"""Time one boot's wipe against the shell recipe: rotation, and pruning of many old roots.

Both do the same on filesystems made the same way, in the same run: mount the top level,
retire the root, delete the N old roots that are due (with their nested subvolumes), make a
fresh root, unmount. Needs root; takes about a minute. `--quick` leaves out the large cases.

The recipe runs as the shell script it is, the wiper as the process that boots run: a new
interpreter with the options of the boot entry.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from btrfs_image import Disk, Site, fresh_disk

RECIPE = Path(__file__).resolve().parent / "recipe.sh"
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


def prepare(directory: Path, count: int, nested: int, *, recipe: bool) -> Path:
    """A filesystem with *count* old roots that are due, unmounted; the image's path."""
    with fresh_disk(directory, 1024) as disk:
        site = Site(disk, "").with_root()
        then = time.time() - AGE
        pattern = "%Y-%m-%d_%H:%M:%S" if recipe else "%Y-%m-%dT%H-%M-%SZ"
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


def measure(count: int, nested: int, repeat: int) -> tuple[float, float, float]:
    """The best of *repeat*: recipe, wiper that prunes all, wiper with a boot's budget."""
    best = [float("inf")] * 3
    for _ in range(repeat):
        for which in range(3):
            directory = Path(tempfile.mkdtemp(prefix="ephemeroot-bench-"))
            try:
                image = prepare(directory, count, nested, recipe=which == 0)
                command = [str(RECIPE), "LOOP", str(directory / "recipe")]
                if which:
                    command = wiper(directory, 600.0 if which == 1 else 1.0)
                best[which] = min(best[which], run(directory, image, command))
                if which < 2:
                    found = left(directory, image)
                    assert found == 1, f"{found} old roots are left"
            finally:
                shutil.rmtree(directory)
    return best[0], best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only up to 30 old roots")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/rotation.py needs root: it makes and mounts filesystems")
    measure(0, 0, 1)
    print("old roots nested     recipe      wiper   ratio  in a boot, budget 1 s")
    first: dict[int, tuple[float, float]] = {}
    for nested in NESTED:
        for count in COUNTS[:3] if arguments.quick else COUNTS:
            recipe, ours, boot = measure(count, nested, 3 if count <= 30 else 1)
            first.setdefault(nested, (recipe, ours))
            print(
                f"{count:9} {nested:6} {recipe * 1e3:7.1f} ms {ours * 1e3:7.1f} ms "
                f"{recipe / ours:6.1f}x {boot * 1e3:7.1f} ms",
                flush=True,
            )
            if count:
                each = [1e3 * (t - first[nested][n]) / count for n, t in enumerate((recipe, ours))]
                print(f"{'each':>16} {each[0]:7.3f} ms {each[1]:7.3f} ms")


if __name__ == "__main__":
    main()
