"""An NFS server for machines: NFS-Ganesha."""

from __future__ import annotations

from pathlib import Path

from vm import debian, server
from vm.cache import Cache
from vm.loopback import Loopback

PACKAGES = debian.Selection(packages=("nfs-ganesha", "nfs-ganesha-vfs", "util-linux"))

# NFS 4 only: one port, no port mapper. The namespace decides on which address it listens: the
# server sees none in a namespace that has only a loopback (AI_ADDRCONFIG).
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


class Server(server.Server):
    """The server, exporting `folder/export` as /store."""

    NAME = "NFS"
    PACKAGES = PACKAGES

    def __init__(self, cache: Cache, loopback: Loopback, folder: Path) -> None:
        super().__init__(cache, loopback, folder)
        (folder / "recovery").mkdir(exist_ok=True)
        self._configuration = folder / "ganesha.conf"
        self._configuration.write_text(_CONFIGURATION.format(folder=folder))

    def words(self) -> list[str]:
        """See Server."""
        files = ("-f", self._configuration, "-L", self.log, "-p", self.folder / "pid")
        return ["ganesha.nfsd", "-F", *map(str, files)]

    def is_ready(self) -> bool:
        """See Server."""
        return "NFS SERVER INITIALIZED" in self.said()
