"""What a program mounts, from a trace of its system calls (strace(1)): which mounts it makes,
whether each is read-only, and where it attaches them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_FORKS = ("clone", "clone3", "fork", "vfork")
CALLS = (
    "open_tree", "fsopen", "fsmount", "mount_setattr", "move_mount", "mount", "umount2",
    "unshare", "setns", "close", *_FORKS,
)  # fmt: skip

STRACE = ("strace", "-qq", "-s", "200", "-e", f"trace={','.join(CALLS)}", "-e", "signal=none")

OWN = "tmpfs"
"""The filesystem that covers the directory for mounts; it contains only directories."""

_LINE = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)\)\s+= (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


@dataclass
class Made:
    """A mount that was made: a *new* instance of a filesystem, or a clone of another mount.

    ``private``: whether the process was in its own mount namespace, from which no mount propagates,
    when it attached the mount; ``None`` if it was never attached.
    """

    what: str
    read_only: bool
    private: bool | None = None


@dataclass
class _Process:
    namespaces: list[bool] = field(default_factory=lambda: [False])
    """For each mount namespace that it has entered and not left, whether it is now private."""
    made: dict[int, Made] = field(default_factory=dict)
    contexts: dict[int, str] = field(default_factory=dict)

    def copy(self) -> _Process:
        """The initial state of a child."""
        return _Process([*self.namespaces], dict(self.made), dict(self.contexts))


def read(trace: str) -> list[Made]:
    """The mounts of all processes in the *trace*, in order."""
    processes: dict[str, _Process] = {}
    found: list[Made] = []
    calls = _calls(trace)
    parents = {str(result): pid for pid, call, _, result in calls if call in _FORKS}
    for pid, call, arguments, result in calls:
        # A child may appear before the call that made it has returned: its parent is inside that
        # call, and its state is that of the moment when the child was made.
        if pid not in processes:
            parent = processes.get(parents.get(pid, ""))
            processes[pid] = _Process() if parent is None else parent.copy()
        process = processes[pid]
        if result < 0:
            continue
        if call in _FORKS:
            processes.setdefault(str(result), process.copy())
        else:
            _follow(process, call, arguments, result, found)
    return found


def _calls(trace: str) -> list[tuple[str, str, str, int]]:
    found = []
    pending: dict[str, str] = {}
    for raw in trace.splitlines():
        line = raw
        if match := _UNFINISHED.match(line):
            pending[match[1]] = f"{match[1]} {match[2]}({match[3]}"
            continue
        if (match := _RESUMED.match(line)) and match[1] in pending:
            line = pending.pop(match[1]) + match[3]
        if match := _LINE.match(line):
            found.append((match[1] or "first", match[2], match[3], int(match[4])))
    return found


def _follow(
    process: _Process,
    call: str,
    arguments: str,
    result: int,
    found: list[Made],
) -> None:
    first = arguments.partition(",")[0]
    if call == "unshare" and "CLONE_NEWNS" in arguments:
        process.namespaces.append(False)  # its mounts still propagate to the other namespace
    elif call == "setns" and "CLONE_NEWNS" in arguments:
        process.namespaces.pop()
    elif call == "mount":
        if "MS_REC|MS_SLAVE" in arguments or "MS_REC|MS_PRIVATE" in arguments:
            process.namespaces[-1] = len(process.namespaces) > 1
        elif "MS_PRIVATE" not in arguments:
            found.append(Made(arguments, "MS_RDONLY" in arguments, process.namespaces[-1]))
    elif call == "fsopen":
        process.contexts[result] = arguments.split('"')[1]
    elif call == "fsmount":
        # The flag of the mount matters: "ro" in the context may mean a superblock that is shared.
        made = Made(process.contexts[int(first)], "MOUNT_ATTR_RDONLY" in arguments)
        found.append(made)
        process.made[result] = made
    elif call == "open_tree" and "OPEN_TREE_CLONE" in arguments:
        made = Made("clone", read_only=False)
        found.append(made)
        process.made[result] = made
    elif call == "mount_setattr" and first.isdigit() and int(first) in process.made:
        if "MOUNT_ATTR_RDONLY" in arguments.partition("attr_clr")[0]:
            process.made[int(first)].read_only = True
    elif call == "move_mount" and int(first) in process.made:
        process.made[int(first)].private = process.namespaces[-1]
    elif call == "close" and first.isdigit():
        process.made.pop(int(first), None)
        process.contexts.pop(int(first), None)
