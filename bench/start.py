"""Time the command line as whole processes, in multiples of the bare interpreter.

`bare` is the same interpreter without a program. One configuration is ordinary, the other one has
1,000 declarations, 200 drop-ins and 100 users. The kinds alternate; the figures are medians,
elapsed and on the processor. `--quick` makes fewer rounds; `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from machine_tree import MachineTree
from measuring import Taken, interleaved, load, process

PROGRAM = Path(sys.executable).with_name("ephemeroot")
GOALS = {
    "--version": 4, "--help": 4, "check": 10, "status": 10, "check, large": 20, "status, large": 20,
}  # fmt: skip
DECLARATIONS, DROP_INS, USERS = 1000, 200, 100


def large(path: Path) -> None:
    """A machine with many users, and declarations in many files."""
    tree = MachineTree(path)
    numbers = range(USERS)
    accounts = [f"user{n}:x:{2000 + n}:{2000 + n}::/home/user{n}:/bin/sh\n" for n in numbers]
    groups = [f"user{n}:x:{2000 + n}:\n" for n in numbers]
    with (path / "etc/passwd").open("a") as file:
        file.writelines(accounts)
    with (path / "etc/group").open("a") as file:
        file.writelines(groups)
    each = DECLARATIONS // DROP_INS
    for number in range(DROP_INS):
        paths = [f"/srv/folder{number}/directory{n}" for n in range(each)]
        text = f'[persistence."/persistent"]\ndirectories = {json.dumps(paths)}\n'
        tree.write(f"etc/ephemeroot/conf.d/{number:03}.toml", text)
    homes = "".join(
        f'[persistence."/persistent".users.user{n}]\ndirectories = ["Documents"]\n' for n in numbers
    )
    tree.write("etc/ephemeroot/conf.d/users.toml", homes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ephemeroot-bench-") as name:
        ordinary, many = Path(name, "ordinary"), Path(name, "large")
        MachineTree(ordinary)
        large(many)
        commands: dict[str, list[str | Path]] = {
            "bare": [sys.executable, "-P", "-c", "pass"],
            "--version": [PROGRAM, "--version"],
            "--help": [PROGRAM, "--help"],
        }
        for verb in ("check", "status"):
            commands[verb] = [PROGRAM, "--root", ordinary, verb]
            commands[f"{verb}, large"] = [PROGRAM, "--root", many, verb]
        found = measured(commands, 3 if arguments.quick else 12)
    show(found)
    if arguments.json:
        kept = {name: [one.clock, one.processor] for name, one in found.items()}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


def measured(commands: dict[str, list[str | Path]], rounds: int) -> dict[str, Taken]:
    def runs(command: list[str | Path]) -> Callable[[], Taken]:
        # `check` and `status` exit with 10 if they report a problem.
        return lambda: process(command, accept=(0, 10))

    kinds = {name: runs(command) for name, command in commands.items()}
    for run in kinds.values():
        run()  # writes the byte code
    return interleaved(rounds, kinds)


def show(found: dict[str, Taken]) -> None:
    bare = found["bare"]
    print(f"{'':16} {'clock':>10} {'processor':>10}  times bare: clock, processor, goal ({load()})")
    for name, one in found.items():
        clock, processor = one.clock / bare.clock, one.processor / bare.processor
        goal = f"{GOALS[name]:5}" if name in GOALS else ""
        print(
            f"{name:16} {1e3 * one.clock:7.0f} ms {1e3 * one.processor:7.0f} ms  "
            f"{clock:11.1f} {processor:10.1f} {goal}"
        )


if __name__ == "__main__":
    main()
