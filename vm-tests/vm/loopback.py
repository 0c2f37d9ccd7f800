"""A private network: a loopback, and machines that reach only that."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from vm.command import Unavailable
from vm.tools import Tools

# QEMU's user network forwards the guest's connections to this address to the host's 127.0.0.1.
HOST = "10.0.2.2"
MAC = "52:54:00:12:34:56"
CARD = (
    *("-netdev", "user,id=net0"),
    *("-device", f"virtio-net-pci,netdev=net0,mac={MAC},romfile="),
)


class Loopback:
    """A network namespace with only a loopback. A context manager."""

    def __init__(self) -> None:
        # It runs until its input is closed, and so does not outlive this process.
        script = "ip link set lo up && echo ready && read -r line"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise Unavailable("no network namespace can be made here")

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in it."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *argv]

    def __enter__(self) -> Loopback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, where: TracebackType | None
    ) -> None:
        self._holder.communicate()


class ToolsOnLoopback(Tools):
    """The tools, started in that namespace: a guest reaches only the server in it."""

    def __init__(self, tools: Tools, loopback: Loopback) -> None:
        super().__init__(tools.tree)
        self._loopback = loopback

    def argv(self, argv: Sequence[str | Path]) -> list[str]:
        """See Tools."""
        return self._loopback.inside(super().argv(argv))
