"""An NFS server for machines: a real one in user space, on a loopback that nobody else has."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType

from vm import debian
from vm.cache import Cache, digest
from vm.command import Unavailable
from vm.loopback import Loopback
from vm.sandbox import with_usr

PACKAGES = debian.Selection(packages=("nfs-ganesha", "nfs-ganesha-vfs", "util-linux"))

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
