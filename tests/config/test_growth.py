"""The work of reading a configuration grows linearly with its size.

Function calls are counted, for steps of the same size: where work is proportional to the number of
declarations, each step costs as much as the one before it, however busy the machine is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from counts import calls
from ephemeroot.config.syntax import lines
from machine_tree import FSTAB, GROUP, MAIN, PASSWD, SOUND, MachineTree

STEP = 60


def directories(tree: MachineTree, count: int) -> None:
    listed = "".join(f'  "/srv/d{number % 7}/e{number}",\n' for number in range(count))
    tree.write(MAIN, SOUND.replace('"/var/log"', f'"/var/log",\n{listed}'))


def files(tree: MachineTree, count: int) -> None:
    entry = '{{ file = "/etc/e{}", method = "copy", parent-directory = {{ mode = "0700" }} }},\n'
    listed = "".join(entry.format(number) for number in range(count))
    tree.write(MAIN, SOUND.replace("files = [", f"files = [{listed}"))


def volumes(tree: MachineTree, count: int) -> None:
    table = '[[volumes]]\nmount-point = "/mnt/{0:04}"\ndevice = "LABEL=x{0}"\ntype = "ext4"\n'
    tree.write(MAIN, SOUND + "".join(table.format(number) for number in range(count)))


def drop_ins(tree: MachineTree, count: int) -> None:
    for number in range(count):
        text = f'[persistence."/persistent"]\ndirectories = ["/srv/{number}"]\n'
        tree.write(f"etc/ephemeroot/conf.d/{number}.toml", text)


def users(tree: MachineTree, count: int) -> None:
    tree.write("etc/passwd", PASSWD + "".join(
        f"u{n}:x:{2000 + n}:{2000 + n}::/home/u{n}:/bin/sh\n" for n in range(count)))  # fmt: skip
    tree.write("etc/group", GROUP + "".join(f"u{n}:x:{2000 + n}:\n" for n in range(count)))
    tree.write(MAIN, SOUND + "".join(
        f'[persistence."/persistent".users.u{n}]\ndirectories = ["Documents"]\nfiles = [".rc"]\n'
        for n in range(count)))  # fmt: skip


def directories_and_homes(tree: MachineTree, count: int) -> None:
    users(tree, count)
    listed = "".join(f'  "/srv/d{number % 7}/e{number}",\n' for number in range(count))
    text = (tree.path / MAIN).read_text()
    tree.write(MAIN, text.replace('"/var/log"', f'"/var/log",\n{listed}'))


def fstab(tree: MachineTree, count: int) -> None:
    mounts = "".join(f"LABEL=m{number} /mnt/{number} ext4 noauto 0 0\n" for number in range(count))
    tree.write("etc/fstab", FSTAB + mounts)


@pytest.mark.parametrize(
    "grow", [directories, files, volumes, drop_ins, users, directories_and_homes, fstab]
)
def test_reading_compares_no_pair_of_declarations(
    grow: Callable[[MachineTree, int], None], tmp_path: Path
) -> None:
    found: list[int] = []
    for number in (STEP, STEP, 2 * STEP, 3 * STEP):  # the first run imports modules
        tree = MachineTree(tmp_path / f"{len(found)}")
        grow(tree, number)
        found.append(calls(tree.compilation))
    _, first, second, third = found
    # Comparing all pairs would add STEP² from one step to the next.
    assert third - second - (second - first) < STEP**2 // 10


class Counted(str):
    """A string with a counter of the characters that were searched for line breaks."""

    __slots__ = ("searched",)

    def replace(self, *_: object) -> Counted:
        return self

    def count(self, sub: str, start: int, end: int) -> int:  # type: ignore[override]
        self.searched = getattr(self, "searched", 0) + end - start
        return super().count(sub, start, end)


DOCUMENTS = {
    "lines": "a = [\n" + '  "value",\n' * 500 + "]\n",
    "one line": "a = [" + '"value",' * 500 + "]\n",
    "tables": "".join(f"[t{number}]\nkey = 1\n" for number in range(500)),
    "inline": "".join(f"[[t]]\nkey = {{ a = [{n}, 2], b.c = 3 }}\n" for n in range(300)),
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_searches_each_character_once_for_line_breaks(text: str) -> None:
    counted = Counted(text)
    assert lines.locate(counted) == lines.locate(text)
    assert 0 < counted.searched <= len(text)
