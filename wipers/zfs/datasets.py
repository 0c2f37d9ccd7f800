"""ZFS datasets: their names, the facts about each, and their private mounts."""

from __future__ import annotations

import errno
import os
import time

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mountinfo, mounts, programs, shell
from ephemeroot.wipers import marks
from ephemeroot.wipers.zfs import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ephemeroot.linux.mountinfo import Mount

AUTO = "zfs:AUTO"

STATE = "ephemeroot:state"

SYSTEM = "ephemeroot:system"
"""On old-roots and on a fresh root: the id of the system that owns it."""

_BUSY_FOR = 3.0  # seconds: the kernel lets go of a mount only some time after umount(2)

# Each dataset in argv that exists, with what decides about it. A property that a dataset
# does not have is nil, and so left out.
_FACTS = """
local wanted = {"type", "guid", "createtxg", "creation", "origin", "encryptionroot",
  "keystatus", "canmount", "mountpoint", "referenced", "refquota", "used", "available", "written"}
local found = {}
for _, name in ipairs((...)["argv"]) do
  if zfs.exists(name) then
    local one, own = {}, {}
    for _, property in ipairs(wanted) do
      one[property] = zfs.get_prop(name, property)
    end
    for property, value, source in zfs.list.user_properties(name) do
      if source == name then own[property] = value end
    end
    one["own"] = own
    found[name] = one
  end
end
return found
"""

_CHILDREN = """
local name = (...)["argv"][1]
local found = {}
if zfs.exists(name) then
  for child in zfs.list.children(name) do
    local kind, born = (zfs.get_prop(child, "type")), (zfs.get_prop(child, "createtxg"))
    found[child] = {kind, born}
  end
end
return found
"""

_MARK = """
local argv = (...)["argv"]
return zfs.sync.set_prop(argv[1], argv[2], argv[3])
"""

_UNMARK = """
local argv = (...)["argv"]
return zfs.sync.inherit(argv[1], argv[2])
"""


class Dataset:
    """The facts about one dataset: ``own`` are the user properties set on itself.

    ``guid`` is as a channel program shows it, signed. ``createtxg`` grows with each dataset.
    ``encryption_root`` and ``origin`` (a snapshot) are empty if it has none.
    """

    __slots__ = (
        "available", "canmount", "createtxg", "creation", "encryption_root", "guid", "key_status",
        "mountpoint", "name", "origin", "own", "referenced", "refquota", "type", "used", "written",
    )  # fmt: skip

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self.name = name
        self.type = str(facts.get("type", ""))
        self.guid = str(facts.get("guid", ""))
        self.createtxg = int(facts.get("createtxg") or 0)
        self.creation = int(facts.get("creation") or 0)
        self.origin = str(facts.get("origin") or "")
        self.encryption_root = str(facts.get("encryptionroot") or "")
        self.key_status = str(facts.get("keystatus") or "")
        self.canmount = str(facts.get("canmount") or "")
        self.mountpoint = str(facts.get("mountpoint") or "")
        self.referenced = int(facts.get("referenced") or 0)
        self.refquota = int(facts.get("refquota") or 0)
        self.used = int(facts.get("used") or 0)
        self.available = int(facts.get("available") or 0)
        self.written = int(facts.get("written") or 0)
        self.own: dict[str, str] = dict(facts.get("own") or {})

    @property
    def state(self) -> str:
        """``NEW``, ``BOOT_COMPLETE``, or empty if no wipe made it."""
        return marks.known(self.own.get(STATE, ""))


def look(*names: str) -> dict[str, Dataset]:
    """Those of the datasets and snapshots *names* (all in one pool) that exist.

    Raises ``Refused`` if the pool is not imported.
    """
    found = channel.read(pool(names[0]), _FACTS, *names)
    return {name: Dataset(name, facts) for name, facts in (found or {}).items()}


def children(name: str) -> dict[str, tuple[str, int]]:
    """The datasets directly in *name*, by their full names: type and ``createtxg``."""
    found = channel.read(pool(name), _CHILDREN, name) or {}
    items = {child: channel.listed(facts) for child, facts in found.items()}
    return {child: (str(kind), int(born)) for child, (kind, born) in items.items()}


def mark(name: str, key: str, value: str) -> None:
    """Set a user property. Raises ``EphemerootError``."""
    code = channel.change(pool(name), _MARK, name, key, value)
    if code:
        raise EphemerootError(f"cannot set {key} on {name}: {os.strerror(code)}")


def unmark(name: str, key: str) -> None:
    """Remove a user property. Raises ``EphemerootError``."""
    code = channel.change(pool(name), _UNMARK, name, key)
    if code:
        raise EphemerootError(f"cannot remove {key} from {name}: {os.strerror(code)}")


# Names


def of_root(root: str | None) -> str:
    """The dataset that ``root=`` names, ``AUTO``, or ``""`` for none of ZFS's.

    As OpenZFS's dracut module reads it (contrib/dracut/90zfs/zfs-lib.sh, ``decode_root_args``):
    ``zfs:NAME``, ``ZFS=NAME``, with ``+`` for a blank, and NAME alone after
    ``rootfstype=zfs``; nothing at all, or ``zfs``, leaves it to the pool's ``bootfs``.
    """
    if root in (None, "", "zfs", "zfs:", AUTO):
        return AUTO
    name = str(root)
    if name.startswith(("zfs:", "ZFS=")):
        name = name.removeprefix("zfs:").removeprefix("ZFS=")
    elif name.startswith("/") or "=" in name or "/" not in name:
        return ""
    return name.replace("+", " ")


def pool(name: str) -> str:
    """The pool that *name* is in."""
    return name.partition("/")[0].partition("@")[0]


def pool_guid(name: str) -> str:
    """The guid of the pool that *name* is in. Raises ``Refused`` if the pool is not imported."""
    try:
        return programs.run("zpool", "get", "-Hpo", "value", "guid", pool(name)).strip()
    except EphemerootError as error:
        raise channel.not_imported(pool(name), error.message) from None


def is_below(name: str, above: str) -> bool:
    """Whether dataset *name* is *above*, or is in it."""
    return name == above or name.startswith(above + "/")


# Mounts


def mount(name: str) -> int:
    """A detached, read-only mount of a filesystem or snapshot. Raises ``EphemerootError``."""
    try:
        return mounts.create("zfs", name, ["ro"])
    except OSError as error:
        if error.errno == errno.EACCES:
            asked = f"zfs get -Ho value encryptionroot {shell.quoted(name.partition('@')[0])}"
            raise Refused(
                f"the key of {name} is not loaded", f'zfs load-key "$({asked})"'
            ) from error
        raise EphemerootError(f"cannot mount {name}: {error.strerror}") from error


class Private:
    """A read-only mount of the dataset or snapshot *name* at *path*, as long as a ``with``
    lasts. ``fsid`` is what statvfs(3) says of it.
    """

    __slots__ = ("fsid", "name", "path")

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.fsid = ""

    def __enter__(self) -> Private:
        # First of all: what a run that was killed here has left.
        while mountinfo.mounted_at(os.path.realpath(self.path)) is not None:
            unmount(self.path)
        os.makedirs(self.path, 0o700, exist_ok=True)
        fd = mount(self.name)
        try:
            mounts.set_flags(fd, private=True, name=self.path)
            place = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                mounts.attach(fd, place, name=self.path)
            finally:
                os.close(place)
        finally:
            os.close(fd)
        self.fsid = fsid(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        unmount(self.path)


def unmount(path: str) -> None:
    """Unmount, and wait for it: remaining mounts can be neither rolled back nor destroyed.

    A busy mount is unmounted lazily at the end; later operations then report the dataset as busy.
    """
    deadline = time.monotonic() + _BUSY_FOR
    while True:
        try:
            mounts.unmount(path)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() >= deadline:
                mounts.detach(path)
                return
        time.sleep(0.02)


def fsid(path: str) -> str:
    """The identity of the dataset that is mounted at *path*: it keeps it under any name."""
    return f"{os.statvfs(path).f_fsid:x}"


def mounted_at(path: str) -> str:
    """The name of the dataset that is mounted at *path*; empty if it is not ZFS."""
    return _dataset(mountinfo.mounted_at(os.path.realpath(path)))


def opened_on(fd: int) -> str:
    """The name of the dataset that is mounted where *fd* was opened; empty if it is not ZFS."""
    return _dataset(mountinfo.of(fd))


def _dataset(found: Mount | None) -> str:
    return found.source if found is not None and found.fstype == "zfs" else ""


def is_mounted(name: str) -> bool:
    """Whether the dataset *name* is mounted anywhere, in any mount namespace."""
    return any(
        one.fstype == "zfs" and one.source == name
        for text in mountinfo.everywhere()
        for one in mountinfo.mounts(text)
    )
