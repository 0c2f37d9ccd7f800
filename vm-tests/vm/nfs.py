"""An NFS server for machines: a real one in user space, on a loopback that nobody else has."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from vm import debian
from vm.cache import Cache, digest
from vm.command import Unavailable
from vm.sandbox import with_usr
from vm.tools import Tools

PACKAGES = debian.Selection(packages=("nfs-ganesha", "nfs-ganesha-vfs", "util-linux"))

# QEMU's user network gives the guest's connections to this address to the host's 127.0.0.1.
HOST = "10.0.2.2"
MAC = "52:54:00:12:34:56"
CARD = (
    *("-netdev", "user,id=net0"),
    *("-device", f"virtio-net-pci,netdev=net0,mac={MAC},romfile="),
)

# NFS 4 alone: one port, no port mapper. Where it listens is left to the namespace: it knows of no
# address in one that has only a loopback (AI_ADDRCONFIG).
_CONFIGURATION = """\
NFS_CORE_PARAM {{
    Protocols = 4; NFS_Port = 2049;
    Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
    Plugins_Dir = /usr/lib/x86_64-linux-gnu/ganesha;
    allow_set_io_flusher_fail = true;
}}
NFSv4 {{
    Graceless = true; Only_Numeric_Owners = true; Minor_Versions = 1, 2;
    RecoveryBackend = fs; RecoveryRoot = {folder}/recovery;
}}
EXPORT {{
    Export_Id = 1; Path = {folder}/export; Pseudo = /store;
    Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Transports = TCP; Protocols = 4;
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""


def tree(cache: Cache) -> Path:
    """A Debian with the server, bootstrapped if the cache has none (about 16 s, 94 MB)."""
    key = digest(repr(PACKAGES), debian.RECIPE)
    entry = cache.entry(
        "tools", key, lambda folder: debian.bootstrap(folder / "tree", PACKAGES), keep=6
    )
    return entry / "tree"


class Loopback:
    """A network namespace with nothing in it but a loopback. A context manager."""

    def __init__(self) -> None:
        # It lives until its input is closed, and so does not outlive us.
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
    """The tools, started in that namespace: a guest reaches nothing but the server in it."""

    def __init__(self, tools: Tools, loopback: Loopback) -> None:
        super().__init__(tools.tree)
        self._loopback = loopback

    def argv(self, argv: Sequence[str | Path]) -> list[str]:
        """See Tools."""
        return self._loopback.inside(super().argv(argv))


class Server:
    """The server, exporting `folder/export` as /store. A context manager."""

    def __init__(self, cache: Cache, loopback: Loopback, folder: Path) -> None:
        self.export = folder / "export"
        self.log = folder / "log"
        (folder / "recovery").mkdir(parents=True, exist_ok=True)
        self.export.mkdir(exist_ok=True)
        configuration = folder / "ganesha.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder))
        self._cache, self._loopback = cache, loopback
        self._words = ["ganesha.nfsd", "-F", "-f", str(configuration), "-L", str(self.log)]
        self._words += ["-p", str(folder / "pid")]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        argv = with_usr(tree(self._cache), self._words)
        # pdeathsig: a test run that is killed must not leave a server
        argv = self._loopback.inside(["setpriv", "--pdeathsig", "KILL", "--", *argv])
        self._process = subprocess.Popen(argv, start_new_session=True)
        deadline = time.monotonic() + 60
        while "NFS SERVER INITIALIZED" not in self._said():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._said()
                self.__exit__(None, None, None)
                raise Unavailable(f"the NFS server does not start:\n{said[-2000:]}")
            time.sleep(0.2)
        return self

    def _said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __exit__(
        self, kind: type[BaseException] | None, value: object, where: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
