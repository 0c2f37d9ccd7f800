"""Run one verb repeatedly in the machine of `verb_machine`, while a user attacks it.

Its only argument is JSON, see `attack.Attack`: ``argv`` of the program, ``rounds``, the attacker's
``command``, and the preparation of each round, while the attacker is stopped: ``restore`` (source
and target of files to copy), ``remove`` (paths), ``unmount`` (mount points), ``fill`` (directories
that get content of the user). It prints JSON: how often each exit code occurred, the last output,
the exchanges of the attacker, and how many of those were of files that root was creating.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from typing import Any

MOST = 40
"""The number of names in a directory of the attacker above which it is cleared."""

LIBC = ctypes.CDLL(None, use_errno=True)


class Attacker:
    """The attacker's processes."""

    def __init__(self, command: list[str], count: int) -> None:
        self.processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
            for _ in range(count)
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def signal(self, number: int) -> None:
        for process in self.processes:
            os.killpg(process.pid, number)

    def stop(self) -> None:
        """Stop them, and wait until they have stopped: a signal takes effect later."""
        self.signal(signal.SIGSTOP)
        for process in self.processes:
            for pid in (process.pid, *_children(process.pid)):
                while _state(pid) != "T":
                    os.sched_yield()

    def end(self) -> tuple[int, int]:
        """End them; return how many exchanges succeeded, and how many were of files that root was
        creating.
        """
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        counts = [process.communicate()[0].split() for process in self.processes]
        return sum(int(all_) for all_, _ in counts), sum(int(made) for _, made in counts)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def prepare(request: dict[str, Any], number: int) -> None:
    """Prepare the machine for the next round."""
    for point in request["unmount"]:
        while LIBC.umount2(point.encode(), 2 | 8) == 0:
            pass
    for path in request["remove"]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    for source, target in request["restore"]:
        shutil.copy2(source, target)
    for path in request["fill"]:
        fill(path, request["user"], number)


def fill(top: str, user: int, number: int) -> None:
    """Create content of the user in *top*: files, directories, fifos, links."""
    try:
        directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # exchanged in an earlier round
        if os.path.lexists(top):
            os.unlink(top)
        os.mkdir(top, 0o755)
        os.chown(top, user, user)
        directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _tidy(directory)
        for n in range(3):
            _file(directory, f"f{n}", f"round {number}\n", user)
            for name, make in (("p", os.mkfifo), ("d", os.mkdir)):
                try:
                    make(f"{name}{n}", 0o700, dir_fd=directory)
                    os.chown(f"{name}{n}", user, user, dir_fd=directory, follow_symlinks=False)
                except FileExistsError:
                    continue
            try:
                inside = os.open(
                    f"d{n}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory
                )
            except OSError:
                continue  # exchanged in an earlier round
            _file(inside, "inner", f"round {number}\n", user)
            os.close(inside)
    finally:
        os.close(directory)


def _tidy(directory: int) -> None:
    """Limit the files that the attacker leaves, so that each round costs the same."""
    names = os.listdir(directory)
    for name in names if len(names) > MOST else ():
        if name.startswith(".trap-"):
            continue
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=directory)


def _file(directory: int, name: str, text: str, user: int) -> None:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = os.open(name, flags, 0o640, dir_fd=directory)
    except FileExistsError:
        return
    os.write(fd, text.encode())
    os.fchown(fd, user, user)
    os.close(fd)


def run(argv: list[str], out: int) -> int:
    """Run the program in a child process; return its exit code, 255 after an exception."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 255
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["ephemeroot", *argv]
        from ephemeroot.cli import main

        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # the test gets the message
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        os._exit(code & 0xFF)


def main() -> None:
    """See the module."""
    request = json.loads(sys.argv[1])
    import ephemeroot.cli  # noqa: F401  # once for all rounds

    attacker = Attacker(request["command"], request["attackers"])
    try:
        _rounds(request, attacker)
    finally:
        try:
            attacker.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass  # they have ended


def _rounds(request: dict[str, Any], attacker: Attacker) -> None:
    codes: dict[int, int] = {}
    said = b""
    for number in range(request["rounds"]):
        attacker.stop()
        prepare(request, number)
        out = os.memfd_create("out")
        if request["disturbed"]:
            attacker.signal(signal.SIGCONT)
        argvs = request["argvs"]
        code = run(argvs[number % len(argvs)], out)
        codes[code] = codes.get(code, 0) + 1
        text = os.pread(out, 1 << 20, 0)
        os.close(out)
        said = (said + text)[-20000:]
        if b"Traceback" in text or code == 255:
            break
    exchanges, meddled = attacker.end()
    answer = {
        "codes": codes, "said": said.decode(errors="replace"),
        "exchanges": exchanges, "meddled": meddled,
    }  # fmt: skip
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
