"""The tmpfs wiper: the root is memory, made again at each boot, and holds nothing else.

Nothing is ever erased, so there is no history and nothing to recover. ``/usr`` and whatever
else the machine boots from are volumes.
"""

from __future__ import annotations

import os

from ephemeroot.errors import Refused
from ephemeroot.linux import mounts
from ephemeroot.wipers import memory, placement, skeleton
from ephemeroot.wipers.contract import Finding, Needs, Option, Outcome, Wiper
from ephemeroot.wipers.placement import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.contract import Boot

# tmpfs(5) and Documentation/filesystems/tmpfs.rst, up to Linux 6.18
_KNOWN = (
    "casefold", "gid", "grpquota", "grpquota_block_hardlimit", "grpquota_inode_hardlimit", "huge",
    "inode32", "inode64", "mpol", "noswap", "quota", "strict_encoding", "uid", "usrquota",
    "usrquota_block_hardlimit", "usrquota_inode_hardlimit",
)  # fmt: skip
_SEARCH = 0o111
_OTHERS_WRITE = 0o002
_KEYS = {"size": "size", "nr_blocks": "size", "mode": "mode", "nr_inodes": "nr-inodes"}


class Tmpfs(Wiper):
    """Mounts a new tmpfs as the root. See the contract for the methods."""

    NAME = "tmpfs"
    OPTIONS = (
        Option("size", "amount", None, "size limit; half of the memory by default"),
        Option("mode", "mode", 0o755, "mode of the root directory"),
        Option("nr-inodes", "size", None, "maximum number of files; 0 removes the limit"),
        Option("mount-options", "strings", [], "any other option of the mount"),
    )
    EPHEMERAL = True
    ON_DEVICE = False
    MOUNTS_ROOT = True
    INSTALLED = "ephemeroot.backends.tmpfs:Tmpfs"

    __slots__ = ()

    @classmethod
    def needs(cls, settings: dict[str, object]) -> Needs:
        return Needs()  # built into every kernel that has an initramfs

    @classmethod
    def validate(cls, settings: dict[str, object]) -> list[Finding]:
        findings = memory.size_findings(settings.get("size"))
        findings += memory.inode_findings(settings.get("nr-inodes"))
        mode = settings.get("mode")
        if isinstance(mode, int) and mode & _SEARCH != _SEARCH:
            reason = f"with mode {mode:04o} only root can enter the root directory"
            findings.append(Finding("mode", reason, "write 0755"))
        if isinstance(mode, int) and mode & _OTHERS_WRITE:
            reason = f"with mode {mode:04o} any user could rename the directories of the root"
            findings.append(Finding("mode", reason, "write 0755"))
        for option in _strings(settings.get("mount-options")):
            key = option.partition("=")[0]
            if key in _KEYS:
                findings.append(
                    Finding("mount-options", f"{key}= is set by its own key", f"set {_KEYS[key]}")
                )
            elif key == "uid" and option != "uid=0":
                reason = (
                    "root must own the root directory: its owner can rename the directories in it"
                )
                findings.append(Finding("mount-options", reason, "leave uid= out"))
            elif option == "ro":
                reason = "nothing could be mounted into a read-only root"
                findings.append(Finding("mount-options", reason, "leave ro out"))
            elif "," in option and not option.startswith("mpol="):
                reason = f"{option!r} contains several options"
                findings.append(Finding("mount-options", reason, "write one string for each"))
            elif key not in _KNOWN and option not in mounts.MOUNT_FLAGS:
                reason = f"{option!r} is not a known option of tmpfs: the kernel may refuse it"
                findings.append(Finding("mount-options", reason, warning=True))
        return findings

    @classmethod
    def starts_empty(cls, settings: dict[str, object]) -> bool:
        return True

    @classmethod
    def mismatch(cls, settings: dict[str, object], root: str | None) -> str:
        if root == "tmpfs":
            return ""
        return "a root on a tmpfs is booted with root=tmpfs"

    def describe(self, target: str, device: str | None, subvolume: str | None) -> str:
        return f"make {target} a fresh tmpfs ({','.join(self._options())})"

    def wipe(self, boot: Boot) -> Outcome:
        """Nothing is at the root's place unless everything was proven."""
        if boot.request is not None:
            raise Refused(
                f"ephemeroot.root={boot.request}: a tmpfs keeps no old root to boot",
                "remove ephemeroot.root= from the kernel command line",
            )
        places = Places(boot.private)
        try:
            path = places.attach(mounts.create("tmpfs", "tmpfs", self._options()), "root")
            self._fill(path, boot)
            boot.prove(path)
            identity = str(os.stat(path).st_dev)
            if not boot.dry_run:
                placement.put_in_place(path, boot.mount_point)
        finally:
            places.close()
        return Outcome(fresh={"device": identity})

    def is_fresh(self, target: str, fresh: dict[str, str]) -> bool:
        return str(os.stat(target).st_dev) == fresh.get("device")

    def _options(self) -> list[str]:
        options = []
        if self.settings.get("size") is not None:
            options.append(f"size={self.settings['size']}")
        mode = self.settings.get("mode")
        if isinstance(mode, int):
            options.append(f"mode={mode:04o}")
        if self.settings.get("nr-inodes") is not None:
            options.append(f"nr_inodes={self.settings['nr-inodes']}")
        return [*options, *_strings(self.settings.get("mount-options"))]

    def _fill(self, root: str, boot: Boot) -> None:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            skeleton.make(top)
            for path in boot.mount_points:
                skeleton.make_mount_point(top, path)
        finally:
            os.close(top)


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []
