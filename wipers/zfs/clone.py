"""A fresh root: a clone of the base with the properties of the root whose place it takes.

``zfs clone`` commits the clone in one transaction group and its properties in later ones
(``zfs_ioc_clone`` in OpenZFS's module/zfs/zfs_ioctl.c), so a power cut can leave a clone without
them. The root is marked first with the snapshot that will be cloned: a clone of that snapshot
without a property of another origin is then known to be an unfinished fresh root.
"""

from __future__ import annotations

from ephemeroot.linux import programs
from ephemeroot.wipers.marks import NEW
from ephemeroot.wipers.zfs import channel, datasets
from ephemeroot.wipers.zfs.datasets import STATE, SYSTEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.zfs.datasets import Dataset

OF = "ephemeroot:of"
"""On a fresh root: the guid of the root whose place it takes."""
BOOTFS = "ephemeroot:bootfs"
"""On a fresh root: the pool's ``bootfs`` has to name it."""
RESERVED = "ephemeroot:reserved"
"""On a fresh root: the reservations that have to move to it."""
CLONES = "ephemeroot:clones"
"""On the root: the guid of the snapshot that a fresh root is about to be cloned from."""

MOVED = ("reservation", "refreservation")
"""Two datasets at once cannot have these; they move when the new root has its place."""

_OURS = "ephemeroot:"
# Come with the clone's origin, and cannot be set.
_NOT_COPIED = ("canmount", "keylocation", "keyformat", "pbkdf2iters", "encryption", *MOVED)

# The properties set on argv[1] itself or received with it ($recvd: ZPROP_SOURCE_VAL_RECVD in
# include/sys/fs/zfs.h), as text. Properties received by a parent dataset are inherited. zfs(8)
# refuses 0 for quota and refquota.
_PROPERTIES = """
local name = (...)["argv"][1]
local found = {}
for _, property in ipairs(zfs.list.system_properties(name)) do
  local value, source = zfs.get_prop(name, property)
  if (source == name or source == "$recvd")
      and (type(value) == "string" or type(value) == "number") then
    if value == -1 or (value == 0 and string.sub(property, -5) == "quota") then
      value = "none"
    end
    found[property] = tostring(value)
  end
end
for property, value, source in zfs.list.user_properties(name) do
  if source == name or source == "$recvd" then found[property] = value end
end
return found
"""


def make(name: str, source: str, previous: Dataset, bootfs: str, system: str) -> None:
    """Clone the snapshot *source* to *name*, which is to take the place of *previous*.

    *bootfs* is the pool's, *system* the id of this system. Raises ``EphemerootError``.
    """
    origin = datasets.look(source)[source]
    datasets.mark(previous.name, CLONES, origin.guid)
    wanted = _wanted(previous, bootfs)
    if system:
        wanted[SYSTEM] = system
    words = [word for key in sorted(wanted) for word in ("-o", f"{key}={wanted[key]}")]
    programs.run("zfs", "clone", *words, source, name)


def forget(root: str) -> None:
    """Take back the mark of ``make``: the clone does not exist any more."""
    datasets.unmark(root, CLONES)


def is_unfinished(found: Dataset, previous: Dataset, bootfs: str) -> bool:
    """Whether *found* is a clone that ``make`` did not get to mark: it is of the snapshot that the
    root names, and has no property that ``make`` would not set. Something may have been written
    to it since: how many bytes an untouched clone has *written* depends on the pool's devices.
    """
    if found.type != "filesystem" or not found.origin:
        return False
    origin = datasets.look(found.origin).get(found.origin)
    if origin is None or origin.guid != previous.own.get(CLONES):
        return False
    # The mark of the system may be set before the others.
    given = {key: value for key, value in _properties(found.name).items() if key != SYSTEM}
    return given.items() <= _wanted(previous, bootfs).items()


def _properties(name: str) -> dict[str, str]:
    return channel.read(datasets.pool(name), _PROPERTIES, name) or {}


def _wanted(previous: Dataset, bootfs: str) -> dict[str, str]:
    """The properties of a fresh root that takes the place of *previous*."""
    own = _properties(previous.name)
    wanted = {
        key: value
        for key, value in own.items()
        if key not in _NOT_COPIED and not key.startswith(_OURS)
    }
    wanted |= {"canmount": "noauto", STATE: NEW, OF: previous.guid}
    if bootfs == previous.name:
        wanted[BOOTFS] = "on"
    reserved = [f"{key}={own[key]}" for key in MOVED if own.get(key, "0") not in ("0", "none")]
    if reserved:
        wanted[RESERVED] = " ".join(reserved)
    return wanted
