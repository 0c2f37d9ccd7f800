"""An SMB server for machines: a real smbd in user space, on a loopback that nobody else has."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType

from vm import debian
from vm.cache import Cache, digest
from vm.command import Unavailable, run
from vm.loopback import Loopback
from vm.sandbox import with_usr

PACKAGES = debian.Selection(packages=("samba", "util-linux"))

USER = "root"
PASSWORD = "a, comma"

# A row of /proc/net/tcp (proc_net_tcp(5)): 127.0.0.1:445, to nobody, TCP_LISTEN.
_LISTENING = " 0100007F:01BD 00000000:0000 0A "

# All of its files are the folder's. Where unix accounts are asked for, they are this host's.
_CONFIGURATION = """\
[global]
    server role = standalone
    log file = {folder}/log
    disable netbios = yes
    smb ports = 445
    bind interfaces only = yes
    interfaces = 127.0.0.1
    passdb backend = tdbsam:{folder}/passdb.tdb
    private dir = {folder}
    state directory = {folder}
    cache directory = {folder}
    lock directory = {folder}
    pid directory = {folder}
    ncalrpc dir = {folder}/ncalrpc
    load printers = no
    disable spoolss = yes
[media]
    path = {folder}/export
    read only = no
"""


def tree(cache: Cache) -> Path:
    """A Debian with the server, bootstrapped if the cache has none."""
    key = digest(repr(PACKAGES), debian.RECIPE)
    entry = cache.entry(
        "tools", key, lambda folder: debian.bootstrap(folder / "tree", PACKAGES), keep=6
    )
    return entry / "tree"


class Server:
    """The server, exporting `folder/export` as //…/media. A context manager."""

    def __init__(self, cache: Cache, loopback: Loopback, folder: Path) -> None:
        self.export = folder / "export"
        self.export.mkdir(parents=True, exist_ok=True)
        (folder / "ncalrpc").mkdir(exist_ok=True)
        self._log = folder / "log"
        self._configuration = folder / "smb.conf"
        self._configuration.write_text(_CONFIGURATION.format(folder=folder))
        self._tree, self._loopback = tree(cache), loopback
        self._process: subprocess.Popen[bytes] | None = None

    def _argv(self, *words: str) -> list[str]:
        return with_usr(self._tree, words)

    def __enter__(self) -> Server:
        configuration = str(self._configuration)
        words = self._argv("smbpasswd", "-c", configuration, "-s", "-a", USER)
        subprocess.run(words, input=f"{PASSWORD}\n{PASSWORD}\n".encode(), check=True)
        argv = self._argv("smbd", "--foreground", "--no-process-group", "-s", configuration)
        # pdeathsig: a test run that is killed must not leave a server
        argv = self._loopback.inside(["setpriv", "--pdeathsig", "KILL", "--", *argv])
        self._process = subprocess.Popen(argv, start_new_session=True)
        deadline = time.monotonic() + 60
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace") if self._log.exists() else ""
                self.__exit__(None, None, None)
                raise Unavailable(f"the SMB server does not start:\n{said[-2000:]}")
            time.sleep(0.2)
        return self

    def _listens(self) -> bool:
        rows = run(self._loopback.inside(["cat", "/proc/net/tcp"])).splitlines()[1:]
        return any(_LISTENING in row for row in rows)

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
