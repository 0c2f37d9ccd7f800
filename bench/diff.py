"""Time `ephemeroot diff` of a root with 200,000 files, compared with find and diff, and with a C
program that makes only the system calls of a walk over both trees.

`quick` is the way of `ephemeroot diff` on btrfs: it asks the filesystem tree which files were
written since the snapshot. `walk` is the same verb without that (`--against base`), as on every
other filesystem. Both are whole processes that also mount, group and print. The recipe is `find
-printf` of both roots, sorted and compared. Needs root; takes about a minute, most of it to make
the files. `--quick` makes a tenth of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from ephemeroot.linux.namespace import Namespace
from living_machine import LivingMachine, living_machine

FLOOR = Path(__file__).resolve().parent / "diff.c"
FILES = 200_000
IN_EACH = 100
CHANGES = (0, 100, 10_000)
MEGABYTES = 2048

LINE = "%P %y %s %T@ %m %U %G %l\\n"
RECIPE = (
    'find "$1" -xdev -printf "$3" | sort >"$4/one"; find "$2" -xdev -printf "$3" | sort >"$4/two"; '
    'diff "$4/one" "$4/two" >/dev/null || true'
)


def fill(base: Path, files: int) -> None:
    """Small files, *IN_EACH* to a directory, as in an installed system."""
    for number in range(files // IN_EACH):
        folder = base / f"usr/share/{number // 100}/{number}"
        folder.mkdir(parents=True)
        fd = os.open(folder, os.O_RDONLY)
        for name in range(IN_EACH):
            file = os.open(f"file{name}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
            os.write(file, b"x" * (name % 50))
            os.close(file)
        os.close(fd)


def change(root: Path, changes: int, files: int) -> None:
    """Every third is new, changed, deleted; spread over the whole tree."""
    step = max(files // max(changes, 1), 1)
    for number in range(changes):
        at = number * step
        folder = root / f"usr/share/{at // IN_EACH // 100}/{at // IN_EACH}"
        file = folder / f"file{at % IN_EACH}"
        if number % 3 == 0:
            (folder / f"new{number}").write_text("new")
        elif number % 3 == 1:
            file.write_text("changed, and longer than all that was there before by a good deal")
        else:
            file.unlink()


def reboot(machine: LivingMachine) -> None:
    """Existing files are older than the next root, and on the disk."""
    machine.disk.sync()
    time.sleep(1.1)  # btrfsutil gives the creation time of a subvolume in seconds
    machine.boot()


def timed(command: list[str | Path], cold: bool) -> float:
    """Seconds that *command* takes, with empty caches if *cold*."""
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(machine: LivingMachine, floor: Path, scratch: Path, cold: bool) -> dict[str, float]:
    """The best of three (one if *cold*) for each way."""
    base, root = machine.disk.top / "base", machine.disk.top / "root"
    verb: list[str | Path] = [
        Path(sys.executable).parent / "ephemeroot", "--root", machine.root, "diff", "--json",
    ]  # fmt: skip
    commands: dict[str, list[str | Path]] = {
        "recipe": ["sh", "-c", RECIPE, "recipe", base, root, LINE, scratch],
        "floor": [floor, base, root],
        "walk": [*verb, "--against", "base"],
        "quick": verb,
    }
    return {
        name: min(timed(command, cold) for _ in range(1 if cold else 3))
        for name, command in commands.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 files")
    parser.add_argument("--cold", action="store_true", help="drop the caches before each run")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench/diff.py needs root: it makes and mounts filesystems")
    # A process with a copy of these mounts would stop the wipes.
    with Namespace():
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    files = FILES // 10 if arguments.quick else FILES
    with tempfile.TemporaryDirectory(prefix="ephemeroot-bench-") as folder:
        floor = Path(folder, "floor")
        flags = ("-O2", "-Wall", "-Wextra", "-Werror")
        subprocess.run(["gcc", *flags, "-o", floor, FLOOR], check=True)
        with living_machine(Path(folder), MEGABYTES) as machine:
            fill(machine.disk.top / "base", files)
            print(f"a root with {files} files")
            print("changed     recipe          C       walk      quick  recipe/walk  walk/C  "
                  "recipe/quick")  # fmt: skip
            for changes in CHANGES:
                reboot(machine)
                change(machine.root, changes, files)
                machine.disk.sync()
                took = measure(machine, floor, Path(folder), arguments.cold)
                times = " ".join(f"{took[k] * 1e3:7.0f} ms" for k in
                                 ("recipe", "floor", "walk", "quick"))  # fmt: skip
                print(
                    f"{changes:7} {times} {took['recipe'] / took['walk']:11.1f}x "
                    f"{took['walk'] / took['floor']:6.1f}x {took['recipe'] / took['quick']:12.1f}x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
