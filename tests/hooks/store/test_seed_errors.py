"""Each system call of seeding fails with each error: the table of docs/persistence.md holds.

The calls come from a trace (strace(1)), so that a new call is a new case. Whichever fails, the path
is in the store completely, or without the files that are named and for which the old root is kept,
or not at all, and then the root or its old root is kept. Nothing is lost, and nothing is created
for a path that could not be seeded.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import proof
from checkout import CHECKOUT
from seeding_driver import BEGIN, END
from tree_content import tree

pytestmark = pytest.mark.requires_program("strace")

UID = 4242
DRIVER = CHECKOUT / "tests/support/seeding_driver.py"
WHOLE = ("EIO", "EDQUOT", "EROFS", "ENOSPC")
SINGLE = ("ENAMETOOLONG", "EFBIG", "E2BIG", "EINVAL", "EPERM")
KINDS = ("directory", "bind")

# Calls for memory and the process itself, and files of the interpreter.
ASIDE = {
    "access", "brk", "clock_gettime", "clock_nanosleep", "close", "exit_group", "futex", "getegid",
    "geteuid", "getpid", "getrandom", "madvise", "mmap", "mprotect", "mremap", "munmap",
    "rt_sigaction", "rt_sigprocmask", "write",
}  # fmt: skip

_CALL = re.compile(r"^(\w+)\((.*)")


@dataclass(frozen=True)
class Call:
    """The *count*-th call (from 1) of that name; ``of_source``: on a file that a user can
    access.
    """

    name: str
    count: int
    line: str
    of_source: bool


def lay_out(folder: Path, kind: str, user: int) -> None:
    """Create a previous root with the path in it, and an empty store, below *folder*."""
    for top in (folder, folder / "before"):
        for name in ("store", "previous/home", "run", "target"):
            (top / name).mkdir(parents=True)
        path = top / "previous/home/mine"
        if kind == "bind":
            path.write_text("years of work\n")
            os.setxattr(path, "user.origin", b"here")
        else:
            _fill(path)
        if user:
            subprocess.run(["chown", "-hR", f"{user}:{user}", path.parent], check=True)


def _fill(top: Path) -> None:
    """One file of each type that a tree can contain."""
    (top / "inner/deeper").mkdir(parents=True)
    (top / "inner/deeper/file").write_text("deep\n")
    (top / "file").write_text("years of work\n")
    os.setxattr(top / "file", "user.origin", b"here")
    (top / "again").hardlink_to(top / "file")
    (top / "link").symlink_to("file")
    os.mkfifo(top / "fifo", 0o640)
    with (top / "sparse").open("wb") as file:
        file.seek(1 << 18)
        file.write(b"end")
    os.chmod(top / "inner", 0o2750)
    made = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(top)
    made.bind("socket")
    os.chdir(here)
    made.close()


def drive(folder: Path, kind: str, user: int, traced: tuple[str, ...] = ()) -> str:
    """What the driver printed, under the words *traced* or alone. The calls of its start must be
    the same each time, and other processes write byte code where this one looks for it: it has a
    cache of its own, which runs without a trace fill.
    """
    environment = {**os.environ, "PYTHONHASHSEED": "0",
                   "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode")}  # fmt: skip
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    python = [*traced, sys.executable, "-P", *(["-B"] if traced else [])]
    words = [*python, str(DRIVER), str(folder), kind, str(user)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{traced}: {done.stderr}"
    return done.stdout


def strace(trace: Path, *options: str) -> tuple[str, ...]:
    return ("strace", "-qq", "-y", "-s", "100", "-o", str(trace), "-e", "signal=none", *options)


def run(folder: Path, kind: str, user: int, *options: str) -> tuple[dict[str, object], list[str]]:
    """Run the driver under strace; return its output, and the lines of the trace between
    the marks.
    """
    trace = folder.with_name(f"{folder.name}.trace")
    printed = drive(folder, kind, user, strace(trace, *options))
    lines = trace.read_text(errors="replace").splitlines()
    trace.unlink()
    marks = [n for n, line in enumerate(lines) if BEGIN in line or END in line]
    answer: dict[str, object] = json.loads(printed)
    return answer, lines[marks[2] + 1 : marks[3]]


def calls(folder: Path, kind: str, user: int) -> list[Call]:
    """Every call that seeding makes."""
    trace = folder.with_name(f"{folder.name}.trace")
    for traced in ((), strace(trace)):
        lay_out(folder, kind, user)
        drive(folder, kind, user, traced)
        shutil.rmtree(folder)
    counts: dict[str, int] = {}
    found, marks = [], 0
    for line in trace.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        marks += BEGIN in line or END in line
        name = match[1]
        counts[name] = counts.get(name, 0) + 1
        if marks == 3 and name not in ASIDE:
            of_source = f"{folder}/previous/home" in line
            found.append(Call(name, counts[name], line, of_source))
    trace.unlink()
    return found


def judge(folder: Path, answer: dict[str, object], error: str, call: Call, user: int) -> list[str]:
    """The faults in the store's content, and in the message about it."""
    stored, source = folder / "store/home/mine", folder / "previous/home/mine"
    left_out: list[tuple[bool, list[str]]] = answer["left-out"]  # type: ignore[assignment]
    # If the filesystem has room, the error is about the attribute (ext4 has one block for all of
    # them).
    of_the_whole = error in WHOLE and not (error == "ENOSPC" and "xattr" in call.name)
    found = []
    if answer["refused"]:
        if os.path.lexists(stored) and tree(stored) != tree(source):
            found.append("the root is kept, and the store has something else in its place")
        if user and call.of_source and not of_the_whole:
            found.append(f"a user's content keeps the root: {answer['refused']}")
        return found
    if not os.path.lexists(stored):
        if not (answer["marked"] and left_out and left_out[0][0]):
            found.append(f"nothing is in the store, and the old root is not kept: {answer}")
        if of_the_whole:
            found.append("nothing is in the store, and the root is not kept")
        return found
    have, wanted = tree(stored), tree(source)
    named = [name for _, names in left_out for name in names]
    differ = sorted(name for name in {*have, *wanted} if have.get(name) != wanted.get(name))
    silent = [
        name for name in differ
        if not any(f"{name}/".startswith(f"{one}/") or (one == "" and name == ".") for one in named)
        # The time of a directory changes with a missing entry.
        and not any(one.startswith(f"{name}/") or name == "." for one in named)
    ]  # fmt: skip
    if silent:
        found.append(f"{silent} differ, and are not named: {answer}")
    if left_out and not answer["marked"]:
        found.append("something is left out, and the old root is not kept")
    if left_out and of_the_whole:
        found.append(f"{named} left out, and the root is not kept")
    return found


@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_failed_call_loses_anything(tmp_path: Path, kind: str, user: int) -> None:
    found = calls(tmp_path / "plain", kind, user)
    assert {"mkdirat", "renameat2", "syncfs"} <= {call.name for call in found} or kind == "bind"
    assert any(call.of_source for call in found)
    assert any(not call.of_source for call in found)
    table = list(itertools.product(found, (*WHOLE, *SINGLE)))
    failures = []
    chosen = proof.sample(table, 8, seed=user + len(kind))
    for number, (call, error) in enumerate(chosen):
        folder = tmp_path / str(number)
        lay_out(folder, kind, user)
        injection = f"inject={call.name}:error={error}:when={call.count}"
        answer, lines = run(folder, kind, user, "-e", f"trace={call.name},access", "-e", injection)
        if not any("(INJECTED)" in line for line in lines):
            failures.append(f"{error} {call}: this run made no such call")
        problems = judge(folder, answer, error, call, user)
        failures += [f"{error} {call.name} {call.count} ({call.line[:160]}): {problem}"
                     for problem in problems]  # fmt: skip
        shutil.rmtree(folder)
    assert not failures, f"{len(failures)}\n" + "\n".join(failures)
    proof.record("an error of one system call: seeding by a boot", len(chosen))


def test_siblings_of_a_directory_that_could_not_be_created_are_copied_to_its_parent(
    tmp_path: Path,
) -> None:
    """The copy continues in the parent, not in the directory that failed."""
    looked_at = [
        call
        for call in calls(tmp_path / "plain", "directory", UID)
        if call.name == "newfstatat" and re.search(r"/store/\S+/inner>", call.line)
    ]
    assert looked_at
    for call in looked_at:
        folder = tmp_path / str(call.count)
        lay_out(folder, "directory", UID)
        injection = f"inject={call.name}:error=EINVAL:when={call.count}"
        answer, _ = run(
            folder, "directory", UID, "-e", f"trace={call.name},access", "-e", injection
        )
        assert judge(folder, answer, "EINVAL", call, UID) == []


def test_every_injected_error_exists_in_the_kernel() -> None:
    assert all(hasattr(errno, name) for name in (*WHOLE, *SINGLE))
