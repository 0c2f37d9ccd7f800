"""Two network namespaces with a cable between them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
# Listens on a port, accepts one connection after another, and prints a line when it is ready.
SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listening = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("ready", flush=True)
while True:
    listening.accept()[0].close()
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Cable:
    """A namespace with ``eth0`` in it (that of this thread), and the other end in a second one."""

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self.processes: list[subprocess.Popen[str]] = []

    def there(self, *words: str) -> None:
        """Run `ip` at the other end."""
        subprocess.run(["nsenter", "-t", str(self.peer), "-n", "ip", *words], check=True)

    def plug_in(self) -> None:
        """Give eth0 its carrier."""
        self.there("link", "set", "eth1", "up")

    @staticmethod
    def empty() -> None:
        """Remove all addresses and routes from eth0."""
        ip("address", "flush", "dev", "eth0", "scope", "global")
        ip("address", "flush", "dev", "eth0", "scope", "host")
        ip("route", "flush", "dev", "eth0")

    def serve(self, address: str, port: int) -> None:
        """Listen at the other end."""
        words = ["nsenter", "-t", str(self.peer), "-n", sys.executable, "-c", SERVER]
        process = subprocess.Popen([*words, address, str(port)], stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Two namespaces with a cable between them that is not plugged in yet."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(CLONE_NEWNET) == 0
    peer = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read -r line"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    made = Cable(peer.pid)
    try:
        assert peer.stdout is not None
        peer.stdout.readline()
        ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", str(peer.pid))
        yield made
    finally:
        made.close()
        peer.communicate(b"\n")
        assert LIBC.setns(home, CLONE_NEWNET) == 0
        os.close(home)
