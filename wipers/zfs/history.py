"""The history of a ZFS root: the datasets in old-roots, and how one is deleted."""

from __future__ import annotations

import os
import time

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mountinfo, programs, shell, values
from ephemeroot.wipers import oldroot, retention
from ephemeroot.wipers.history import History, require_mountable
from ephemeroot.wipers.oldroot import RETIRED, Facts, OldRoot
from ephemeroot.wipers.zfs import channel, datasets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.retention import Policy

SNAPSHOT = "ephemeroot-"
"""How the snapshots begin that we take of old roots, to boot them: they go with those."""

# On old-roots itself: the latest time of a synchronised clock, and which root was first.
_SEEN = "ephemeroot:seen"
_FIRST = "ephemeroot:first"

# argv: the dataset, its createtxg, how our own snapshots begin, "do" or "look". Never
# recursive: a dataset with content that we did not create stays.
_DELETE = """
local argv = (...)["argv"]
local name, born, own, act = argv[1], argv[2], argv[3], argv[4]
local function no(what, by) return {what = what, by = by} end
if not zfs.exists(name) or tostring(zfs.get_prop(name, "createtxg")) ~= born then
  return no("changed", "")
end
for child in zfs.list.children(name) do return no("child", child) end
local snapshots = {}
for snapshot in zfs.list.snapshots(name) do
  if string.sub(snapshot, #name + 2, #name + 1 + #own) ~= own then
    return no("snapshot", snapshot)
  end
  for clone in zfs.list.clones(snapshot) do return no("clone", clone) end
  for tag in zfs.list.holds(snapshot) do return {what = "held", by = snapshot, tag = tag} end
  local code = zfs.check.destroy(snapshot)
  if code ~= 0 then return no("failed", tostring(code)) end
  snapshots[#snapshots + 1] = snapshot
end
if #snapshots == 0 then
  local code = zfs.check.destroy(name)
  if code ~= 0 then return no("failed", tostring(code)) end
end
if act == "do" then
  for _, snapshot in ipairs(snapshots) do
    local code = zfs.sync.destroy(snapshot)
    if code ~= 0 then return no("failed", tostring(code)) end
  end
  local code = zfs.sync.destroy(name)
  if code ~= 0 then return no("failed", tostring(code)) end
end
return {}
"""


class DatasetHistory(History):
    """The old roots of the filesystem ``root``, in the dataset ``old_roots`` (empty: none).

    ``source`` is the snapshot that fresh roots are clones of. *listed*: ``look`` and ``children``
    read by what zfs(8) lists, not by channel programs (see ``listing``). Holds the lock on ZFS
    until ``close``. Raises ``Refused`` if old-roots cannot be one, ``Locked`` if another run has
    the lock.
    """

    __slots__ = (
        "_listed", "_lock", "_sizes", "children", "look", "old_roots", "root", "source",
    )  # fmt: skip

    def __init__(
        self,
        root: str,
        old_roots: str,
        *,
        source: str,
        policy: Policy | None = None,
        min_free: object = None,
        system: str = "",
        listed: bool = False,
    ) -> None:
        super().__init__(old_roots, policy, system=system)
        self.root = root
        self.old_roots = old_roots
        self.source = source
        self.look, self.children = datasets.look, datasets.children
        self._listed = listed
        self._sizes: dict[str, tuple[int, int]] | None = None
        if listed:
            from ephemeroot.wipers.zfs import listing

            self.look, self.children = listing.look, listing.children
        self._lock = channel.lock()
        try:
            self.min_free = retention.amount(min_free, self.space()[1])
            found = self.container()
            if found is not None and found.type != "filesystem":
                raise Refused(f"old-roots {old_roots} is a {found.type}", "name another dataset")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> DatasetHistory:
        return self

    def container(self) -> datasets.Dataset | None:
        """The dataset that holds the old roots; ``None`` if there is none yet."""
        if not self.old_roots:
            return None
        return self.look(self.old_roots).get(self.old_roots)

    def make_container(self) -> None:
        """Create it, never mounted. Raises ``EphemerootError``."""
        options = ("-o", "canmount=off", "-o", "mountpoint=none")
        programs.run("zfs", "create", *options, self.old_roots)
        self.require_own()

    def owner(self) -> str:
        found = self.container()
        return found.own.get(datasets.SYSTEM, "") if found is not None else ""

    def set_owner(self, system: str) -> None:
        if self.container() is not None:
            datasets.mark(self.old_roots, datasets.SYSTEM, system)

    def entries(self) -> list[OldRoot]:
        found: list[OldRoot] = []
        if not self.old_roots:
            return found
        for child, (kind, born) in self.children(self.old_roots).items():
            text = child[len(self.old_roots) + 1 :]
            found.append(oldroot.classify(text, born if kind == "filesystem" else 0))
        return sorted(self.owned(found), key=lambda entry: (entry.kind, entry.label))

    def path(self, entry: OldRoot) -> str:
        return f"{self.old_roots}/{entry.text}"

    def facts(self, entry: OldRoot) -> Facts:
        found = self.look(self.path(entry)).get(self.path(entry))
        if found is None or found.createtxg != entry.serial:
            raise EphemerootError(f"{self.path(entry)} is another dataset than before")
        return Facts(
            made=found.creation, state=found.state, size=found.referenced, exclusive=found.used
        )

    def measure(self, entry: OldRoot, deadline: float) -> int | None:
        """By one listing of all: a process for each would take long."""
        if not self._listed:
            return self.facts(entry).exclusive
        if self._sizes is None:
            from ephemeroot.wipers.zfs import listing

            self._sizes = listing.sizes(self.old_roots)
        born, used = self._sizes.get(self.path(entry), (0, 0))
        return used if born == entry.serial else None

    def first(self) -> str:
        found = self.container()
        return found.own.get(_FIRST, "") if found is not None else ""

    def record_first(self, label: str) -> None:
        datasets.mark(self.old_roots, _FIRST, label)

    # Looking into it

    def mount(self, entry: OldRoot) -> int:
        require_mountable(entry)
        return datasets.mount(self.path(entry))

    def mount_base(self) -> int | None:
        return datasets.mount(self.source)

    def mount_fresh(self) -> int | None:
        """A mount of the snapshot that the present root is a clone of."""
        root = self.look(self.root).get(self.root)
        if root is None or not root.origin:
            raise EphemerootError(
                f"{self.root} is not a clone: it was not made by a wipe",
                "compare with --against base",
            )
        return datasets.mount(root.origin)

    # What retention asks

    def seen(self) -> int:
        found = self.container()
        text = found.own.get(_SEEN, "") if found is not None else ""
        return values.number(text, 11) or 0

    def record_seen(self, now: int) -> None:
        if self.container() is not None:
            datasets.mark(self.old_roots, _SEEN, str(now))

    def space(self) -> tuple[int, int]:
        """Of the pool, or of the dataset above the old roots whose quota leaves less."""
        names = self._above(self.old_roots or self.root)
        found = self.look(*names)
        least = found[names[0]]
        for name in names:
            if name in found and found[name].available < least.available:
                least = found[name]
        return least.available, least.available + least.used

    @staticmethod
    def _above(name: str) -> list[str]:
        """The pool, the datasets that *name* is in, and *name*."""
        parts = name.split("/")
        return ["/".join(parts[: number + 1]) for number in range(len(parts))]

    def retained(self) -> str:
        pool = datasets.pool(self.root)
        if programs.run("zpool", "get", "-Hpo", "value", "checkpoint", pool).strip() == "-":
            return ""
        return (
            f"the pool {pool} has a checkpoint, which keeps the blocks of each dataset that is "
            f"destroyed ('zpool checkpoint -d {shell.quoted(pool)}' discards it)"
        )

    def settle(self, deadline: float) -> None:
        """Wait for ZFS, which frees the blocks of destroyed datasets in the background
        (zpoolprops(7)).
        """
        pool = datasets.pool(self.root)
        while programs.run("zpool", "get", "-Hpo", "value", "freeing", pool).strip() != "0":
            if time.monotonic() >= deadline:
                return
            time.sleep(0.05)

    # What becomes of an old root

    def rename(self, entry: OldRoot, name: Name) -> str:
        self.facts(entry)
        channel.rename(self.path(entry), f"{self.old_roots}/{name}")
        return str(name)

    def prove(self, entry: OldRoot) -> None:
        if entry.kind != RETIRED:
            raise EphemerootError(f"{self.path(entry)} was not retired by ephemeroot: not touched")
        delete(self.path(entry), entry.serial, act="look")

    def delete(self, entry: OldRoot) -> None:
        self.prove(entry)
        delete(self.path(entry), entry.serial)


def delete(name: str, createtxg: int, act: str = "do") -> None:
    """Delete the filesystem *name*, which was made in that transaction group, and nothing else.

    Raises ``EphemerootError`` if it is another one now, is mounted, or has anything in it or
    cloned from it.
    """
    if datasets.is_mounted(name):
        where = next((one.point for one in mountinfo.mounts() if one.source == name), "")
        raise EphemerootError(
            f"{name} is mounted",
            f"umount {shell.quoted(where)}" if where else "it is in another mount namespace",
        )
    pool = datasets.pool(name)
    run = channel.change if act == "do" else channel.read
    said = run(pool, _DELETE, name, str(createtxg), SNAPSHOT, act) or {}
    what, by = said.get("what"), said.get("by", "")
    word = shell.quoted(by)
    if not what:
        return
    if what == "changed":
        raise EphemerootError(f"{name} is another dataset than before")
    if what == "child":
        raise EphemerootError(f"{name} has {by} in it", f"run 'zfs destroy {word}' first")
    if what == "snapshot":
        raise EphemerootError(
            f"{name} has the snapshot {by}",
            f"run 'zfs destroy {word}' first, and take no automatic snapshots of the root",
        )
    if what == "held":
        tag = str(said.get("tag"))
        raise EphemerootError(
            f"{by} is held ({tag})", f"run 'zfs release {shell.quoted(tag)} {word}' first"
        )
    if what == "clone":
        raise EphemerootError(f"{by} is a clone of {name}", f"run 'zfs promote {word}' first")
    raise EphemerootError(f"{name} cannot be destroyed: {os.strerror(int(by))}")
