"""An SMB server for machines: Samba's smbd."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from vm import debian, server
from vm.cache import Cache
from vm.command import run
from vm.loopback import Loopback

PACKAGES = debian.Selection(packages=("samba", "util-linux"))

USER = "root"
PASSWORD = "a, comma"

# A row of /proc/net/tcp (proc_net_tcp(5)): 127.0.0.1:445, without a peer, TCP_LISTEN.
_LISTENING = " 0100007F:01BD 00000000:0000 0A "

# All its files belong to the folder. Unix accounts are those of this host.
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


class Server(server.Server):
    """The server, exporting `folder/export` as //…/media."""

    NAME = "SMB"
    PACKAGES = PACKAGES

    def __init__(self, cache: Cache, loopback: Loopback, folder: Path) -> None:
        super().__init__(cache, loopback, folder)
        (folder / "ncalrpc").mkdir(exist_ok=True)
        self._configuration = folder / "smb.conf"
        self._configuration.write_text(_CONFIGURATION.format(folder=folder))

    def words(self) -> list[str]:
        """See Server."""
        return ["smbd", "--foreground", "--no-process-group", "-s", str(self._configuration)]

    def is_ready(self) -> bool:
        """See Server."""
        rows = run(self.loopback.inside(["cat", "/proc/net/tcp"])).splitlines()[1:]
        return any(_LISTENING in row for row in rows)

    def __enter__(self) -> Self:
        words = self.argv(["smbpasswd", "-c", str(self._configuration), "-s", "-a", USER])
        subprocess.run(words, input=f"{PASSWORD}\n{PASSWORD}\n".encode(), check=True)
        return super().__enter__()
