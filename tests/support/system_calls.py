"""Stopping a process, and all processes that it starts, at chosen system calls (ptrace(2),
seccomp(2)).

strace can inject a signal at a call, too, but with a separate count for each process, so it
cannot kill the third of four processes. Here a seccomp filter stops a process only at the calls of
`CALLS`, so that a traced program is as fast as any other. `machine_init` uses this module, which
therefore needs only the standard library. Numbers and registers are those of x86-64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from dataclasses import dataclass

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.restype = ctypes.c_long
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

MOUNT, RENAME, UNLINK, SUBVOLUME = "mount", "rename", "unlink", "subvolume"

CALLS = {
    "mount": (165, MOUNT, (1,)), "umount2": (166, MOUNT, (0,)), "pivot_root": (155, MOUNT, ()),
    "unshare": (272, MOUNT, ()), "setns": (308, MOUNT, ()), "open_tree": (428, MOUNT, (1,)),
    "move_mount": (429, MOUNT, (1, 3)), "fsopen": (430, MOUNT, (0,)), "fsmount": (432, MOUNT, ()),
    "mount_setattr": (442, MOUNT, (1,)),
    "rename": (82, RENAME, (0, 1)), "renameat": (264, RENAME, (1, 3)),
    "renameat2": (316, RENAME, (1, 3)), "link": (86, RENAME, (0, 1)),
    "linkat": (265, RENAME, (1, 3)), "symlink": (88, RENAME, (0, 1)),
    "symlinkat": (266, RENAME, (0, 2)),
    "unlink": (87, UNLINK, (0,)), "unlinkat": (263, UNLINK, (1,)), "rmdir": (84, UNLINK, (0,)),
}  # fmt: skip
"""Calls by name: number, family, and which arguments are strings."""

IOCTL = 16
# _IOW and _IOWR of BTRFS_IOCTL_MAGIC (include/uapi/linux/btrfs.h).
REQUESTS = {
    0x50009401: "SNAP_CREATE", 0x5000940E: "SUBVOL_CREATE", 0x5000940F: "SNAP_DESTROY",
    0x50009417: "SNAP_CREATE_V2", 0x50009418: "SUBVOL_CREATE_V2", 0x4008941A: "SUBVOL_SETFLAGS",
    0x5000943F: "SNAP_DESTROY_V2", 0x40089413: "DEFAULT_SUBVOL",
}  # fmt: skip

_NAMES = {number: name for name, (number, _, _) in CALLS.items()}


def family(call: str) -> str:
    """Which of the four families a call of `Event` belongs to."""
    return CALLS[call][1] if call in CALLS else SUBVOLUME


# Offsets of registers in struct user_regs_struct, in bytes.
_PEEKUSER, _POKEUSER, _CONT, _SYSCALL, _SEIZE, _LISTEN = 3, 6, 7, 24, 0x4206, 0x4208
_SYSGOOD, _FORK, _VFORK, _CLONE, _SECCOMP, _EXITKILL = 0x1, 0x2, 0x4, 0x8, 0x80, 0x100000
_OPTIONS = _SYSGOOD | _FORK | _VFORK | _CLONE | _SECCOMP | _EXITKILL
_EVENT_SECCOMP, _EVENT_STOP = 7, 128
_TRAP = signal.SIGTRAP | 0x80
_WALL = 0x40000000
# struct user_regs_struct, in bytes
_RAX, _ORIG_RAX = 80, 120
_RDI, _RSI, _RDX, _R10 = 112, 104, 96, 56
_ARGUMENTS = (_RDI, _RSI, _RDX, _R10)

# linux/filter.h, linux/seccomp.h
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_RET_TRACE, _RET_ALLOW = 0x7FF00000, 0x7FFF0000


@dataclass(frozen=True)
class Event:
    """The *count*-th (from 1) of these calls by the *process*-th (from 0) process."""

    process: int
    call: str
    count: int


@dataclass(frozen=True)
class Moment:
    """Where a signal is sent: instead of the call of ``event``, or after it.

    At ``entry`` the call is not made: it fails with EINTR, and the signal's handler runs. ``to`` is
    the process that makes the call (``caller``), the first process (``first``), or the process
    group of the first one (``group``), as a terminal sends it.
    """

    event: Event
    number: int
    entry: bool
    to: str


def filter_calls() -> None:
    """Let the kernel stop this process, and its descendants, at each of `CALLS`."""
    if os.uname().machine != "x86_64":
        raise OSError(errno.ENOSYS, "the system calls of this processor are not in the table")
    requests = list(REQUESTS)
    numbers = list(_NAMES)
    code = [(_LOAD, 0, 0, 0)]
    # Jumps are counted from the next instruction; the program ends with: load, requests, allow,
    # trace.
    end = len(numbers) + 1
    for index, number in enumerate(numbers):
        code.append((_EQUAL, end - index + len(requests) + 2 - 1, 0, number))
    code.append((_EQUAL, 0, len(requests) + 1, IOCTL))
    code.append((_LOAD, 0, 0, 24))
    for index, request in enumerate(requests):
        code.append((_EQUAL, len(requests) - index, 0, request))
    code += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_TRACE)]
    program = b"".join(struct.pack("HBBI", *one) for one in code)
    held = ctypes.create_string_buffer(program, len(program))
    sock = struct.pack("HxxxxxxP", len(code), ctypes.addressof(held))
    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER; root needs no NO_NEW_PRIVS, with which setuid programs
    # would not work
    if LIBC.prctl(22, 2, sock, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    result = int(LIBC.ptrace(request, pid, address, data))
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"ptrace {request:#x}")
    return result


class Trace:
    """Follows the process *first*, which waits to be seized, and all its descendants.

    ``events`` has the calls, each with its string arguments; ``met`` says whether *moment*
    occurred. Every stop that waitpid(2) reports must be passed to ``stopped``.
    """

    def __init__(self, first: int, moment: Moment | None) -> None:
        self.first = first
        self.moment = moment
        self.events: list[tuple[Event, str]] = []
        self.met = False
        self._ordinals: dict[int, int] = {}
        self._counts: dict[tuple[int, str], int] = {}
        self._stopped_for: dict[int, Event] = {}
        _ptrace(_SEIZE, first, 0, _OPTIONS)

    def stopped(self, pid: int, status: int) -> None:
        """Handle a stop of *pid* that waitpid(2) reported: record it, and continue the process."""
        number, event = os.WSTOPSIG(status), status >> 16
        try:
            if event == _EVENT_SECCOMP:
                self._called(pid)
            elif number == _TRAP:
                self._returned(pid)
            elif event == _EVENT_STOP:
                # Stopped with the rest of its group, or new.
                stops = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
                _ptrace(_LISTEN if number in stops else _CONT, pid)
            else:
                _ptrace(_CONT, pid, 0, 0 if event else number)
        except ProcessLookupError:  # killed meanwhile
            pass

    def _called(self, pid: int) -> None:
        event, words = self._event(pid)
        self.events.append((event, words))
        if self.moment is None or self.moment.event != event:
            _ptrace(_CONT, pid)
        elif self.moment.entry:
            _ptrace(_POKEUSER, pid, _ORIG_RAX, -1)
            _ptrace(_POKEUSER, pid, _RAX, -errno.EINTR)
            self._send(pid)
            _ptrace(_CONT, pid)
        else:
            self._stopped_for[pid] = event
            _ptrace(_SYSCALL, pid)

    def _returned(self, pid: int) -> None:
        if self._stopped_for.pop(pid, None) is not None:
            self._send(pid)
        _ptrace(_CONT, pid)

    def _send(self, pid: int) -> None:
        assert self.moment is not None
        self.met = True
        try:
            if self.moment.to == "group":
                os.killpg(self.first, self.moment.number)
            else:
                os.kill(self.first if self.moment.to == "first" else pid, self.moment.number)
        except ProcessLookupError:  # the first one had ended
            pass

    def _event(self, pid: int) -> tuple[Event, str]:
        number = _ptrace(_PEEKUSER, pid, _ORIG_RAX)
        arguments = [_ptrace(_PEEKUSER, pid, offset) for offset in _ARGUMENTS]
        if number == IOCTL:
            call = REQUESTS[arguments[1] & 0xFFFFFFFF]
            words = ""
        else:
            call = _NAMES[number]
            words = " ".join(_string(pid, arguments[index]) for index in CALLS[call][2])
        process = self._ordinals.setdefault(group(pid), len(self._ordinals))
        count = self._counts[process, call] = self._counts.get((process, call), 0) + 1
        return Event(process, call, count), words


def ignore(pid: int, status: int) -> None:
    """Continue *pid*, which an earlier trace followed: waitpid(2) reported that it stopped."""
    number, event = os.WSTOPSIG(status), status >> 16
    passed = 0 if event or number == _TRAP else number
    try:
        _ptrace(_CONT, pid, 0, passed)
    except ProcessLookupError:
        pass


def group(pid: int) -> int:
    """The process of a thread."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))


def _string(pid: int, address: int) -> str:
    if address == 0:
        return "NULL"
    with open(f"/proc/{pid}/mem", "rb", 0) as file:
        file.seek(address)
        try:
            return file.read(256).split(b"\0")[0].decode(errors="replace")
        except OSError:
            return "?"
