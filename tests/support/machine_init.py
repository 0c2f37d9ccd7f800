"""Process 1 of a machine: a separate program in a private mount and PID namespace.

`programs` starts it with the layout of the machine as JSON in its only argument. It mounts the
machine, makes it the root directory, and then executes the requests in lines of JSON on standard
input: run programs, each until it and all processes that it started have ended. It shares no code
with the product, unless a request says ``forked``: it uses only the C library and the standard
library.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from system_calls import Event, Moment, Trace, filter_calls, group, ignore

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
WALL = 0x40000000  # __WALL, see waitpid(2)

EARLIER: set[int] = set()
"""Daemons that earlier programs have started."""

NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0), "fuse": (10, 229), "btrfs-control": (10, 234), "kmsg": (1, 11),
}  # fmt: skip


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        LIBC.mount(
            source.encode(), target.encode(), fstype.encode() or None, ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        target,
    )  # fmt: skip


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(LIBC.umount2(target.encode(), flags), target)


def assemble(layout: dict[str, Any]) -> None:
    """Mount everything below ``layout["root"]``, which becomes the root directory."""
    root, loop = layout["root"], layout["loop"]
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    os.makedirs(root, exist_ok=True)
    if layout["subvolume"]:
        mount(loop, root, "btrfs", data=f"subvol={layout['subvolume']}")
    else:
        mount("tmpfs", root, "tmpfs", data="mode=0755")
        _skeleton(root)
    usr = layout["usr"]
    layers = f"lowerdir=/usr,upperdir={usr}/upper,workdir={usr}/work"
    mount("overlay", f"{root}/usr", "overlay", data=layers)
    mount("proc", f"{root}/proc", "proc")
    mount(layout["cmdline"], f"{root}/proc/cmdline", flags=MS_BIND)
    mount("/sys", f"{root}/sys", flags=MS_BIND)
    mount("tmpfs", f"{root}/dev", "tmpfs", data="mode=0755")
    _devices(f"{root}/dev", loop, layout["uuid"])
    mount("tmpfs", f"{root}/tmp", "tmpfs", data="mode=1777,size=64m")
    mount(layout["run"], f"{root}/run", flags=MS_BIND)
    mount(layout["boot"], f"{root}/boot", flags=MS_BIND)
    checkout = layout["checkout"]
    os.makedirs(root + checkout, exist_ok=True)
    mount(checkout, root + checkout, flags=MS_BIND | MS_REC)
    if layout["store"]:
        mount(loop, f"{root}/persistent", "btrfs", data="subvol=persistent")
    for source, target in layout["binds"]:
        mount(root + source, root + target, flags=MS_BIND)
    os.chdir(root)
    number = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
    _check(LIBC.syscall(number, b".", b"."), "pivot_root")
    unmount(".", MNT_DETACH)
    os.chdir("/")


def _skeleton(root: str) -> None:
    for name in ("usr", "proc", "sys", "dev", "tmp", "run", "boot", "sysroot", "etc", "lib"):
        os.mkdir(f"{root}/{name}")
    for name in ("bin", "sbin", "lib64"):
        os.symlink(f"usr/{name}", f"{root}/{name}")
    for name in os.listdir("/usr/lib"):
        if "-linux-gnu" in name:
            os.symlink(f"../usr/lib/{name}", f"{root}/lib/{name}")


def _devices(dev: str, loop: str, uuid: str) -> None:
    for name, (major, minor) in NODES.items():
        os.mknod(f"{dev}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        os.chmod(f"{dev}/{name}", 0o666)
    device = os.stat(loop).st_rdev
    os.mknod(f"{dev}/{os.path.basename(loop)}", 0o660 | stat.S_IFBLK, device)
    os.makedirs(f"{dev}/disk/by-uuid")
    os.symlink(f"../../{os.path.basename(loop)}", f"{dev}/disk/by-uuid/{uuid}")
    os.symlink("/proc/self/fd", f"{dev}/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")


# Running


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run ``argv`` with ``env``; return its wait status and its output.

    With ``forked`` the program is a fork of this process, which has imported it: importing takes
    more than half of a run of a fifth of a second.
    """
    out, err = os.memfd_create("out"), os.memfd_create("err")
    reading, writing = os.pipe()
    traced = "moment" in request
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        _become(request, out, err, reading, traced=traced)
    os.close(reading)
    trace = None
    if traced:
        moment = request["moment"]
        if moment is not None:
            moment = Moment(**{**moment, "event": Event(**moment["event"])})
        trace = Trace(pid, moment)
    os.close(writing)
    status = _wait(pid, set(request["daemons"]), trace)
    answer = {"status": status, "out": _content(out), "err": _content(err)}
    if trace is not None:
        events = [[vars(event), words] for event, words in trace.events]
        answer |= {"events": events, "met": trace.met}
    os.close(out)
    os.close(err)
    return answer


def _become(request: dict[str, Any], out: int, err: int, reading: int, *, traced: bool) -> None:
    argv = request["argv"]
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for number, fd in enumerate((null, out, err)):
            os.dup2(fd, number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        os.chdir("/")
        os.read(reading, 1)  # until it is seized
        if traced:
            filter_calls()
        if request["forked"]:
            _call(request)
        os.execvpe(argv[0], argv, request["env"])
    except Exception as error:  # noqa: BLE001  # the test gets the message
        os.write(err, f"{argv}: {error}\n".encode())
    finally:
        os._exit(127)


def _call(request: dict[str, Any]) -> None:
    """Run the program without starting an interpreter; see ``run``."""
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # New standard streams, because those of this process are pipes to the test.
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    if user := request["user"]:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        # The user can inspect a program that the user has started (proc(5)).
        _check(LIBC.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE
    code = 1
    try:
        from ephemeroot.cli import main

        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code & 0xFF)


def _wait(first: int, daemons: set[str], trace: Trace | None) -> int:
    """Wait until all processes except *daemons* have ended; return the wait status of *first*."""
    found = 0
    while any(_name(pid) not in daemons for pid in _children()):
        pid, status = os.waitpid(-1, WALL)
        if os.WIFSTOPPED(status):
            if trace is None or group(pid) in EARLIER:
                ignore(pid, status)
            else:
                trace.stopped(pid, status)
        elif pid == first:
            found = status
    EARLIER.update(_children())
    return found


def _children() -> list[int]:
    with open("/proc/self/task/1/children") as file:
        return [int(word) for word in file.read().split()]


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _content(fd: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode(errors="replace")


def serve() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = run(request)
        except Exception:  # noqa: BLE001  # the test gets the message
            answer = {"failed": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    """See the module."""
    layout = json.loads(sys.argv[1])
    _check(LIBC.unshare(CLONE_NEWNS | CLONE_NEWPID), "unshare")
    pid = os.fork()
    if pid:
        for fd in range(3):
            os.close(fd)
        os.waitpid(pid, 0)
        os._exit(0)
    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assemble(layout)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    serve()
    os._exit(0)


if __name__ == "__main__":
    main()
