"""Back to the blank snapshot: one channel program that does all of it, or nothing.

Whatever was written since, and every snapshot taken since, is gone afterwards: there is no
history. An error half-way through a channel program would not undo what it already did, so
everything that could fail is asked first, in the same program.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.wipers.contract import Outcome
from ephemeroot.wipers.zfs import channel, datasets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ephemeroot.wipers.contract import Boot

# argv: the dataset, its blank snapshot, "do" or "look", and the bookmarks that may stay.
# Reservations are asked for by hand: freeing what is destroyed takes time, and the rollback
# needs that space before (dsl_dataset_rollback_check).
_PROGRAM = """
local argv = (...)["argv"]
local root, blank, act = argv[1], argv[2], argv[3]
local stays = {}
for i = 4, #argv do stays[argv[i]] = true end
local refused, later = {}, {}
local function refuse(what, name, by)
  if #refused < 20 then refused[#refused + 1] = {what = what, name = name, by = by} end
end
if not zfs.exists(root) or not zfs.exists(blank) then
  refuse("missing", zfs.exists(root) and blank or root, "")
  return {refused = refused}
end
local since = zfs.get_prop(blank, "createtxg")
for bookmark in zfs.list.bookmarks(root) do
  if not stays[bookmark] then refuse("bookmark", bookmark, "") end
end
for snapshot in zfs.list.snapshots(root) do
  if zfs.get_prop(snapshot, "createtxg") > since then
    later[#later + 1] = snapshot
    local known = #refused
    for tag in zfs.list.holds(snapshot) do refuse("held", snapshot, tag) end
    for clone in zfs.list.clones(snapshot) do refuse("cloned", snapshot, clone) end
    if #refused == known then
      local code = zfs.check.destroy(snapshot)
      if code ~= 0 then refuse("destroy", snapshot, tostring(code)) end
    end
  end
end
local quota = zfs.get_prop(root, "refquota") or 0
if quota > 0 and zfs.get_prop(blank, "referenced") > quota then refuse("refquota", root, "") end
local reserved = zfs.get_prop(root, "refreservation") or 0
if reserved > 0 then
  local unused = reserved - zfs.get_prop(root, "unique")
  if unused < 0 then unused = 0 end
  local needed = zfs.get_prop(root, "referenced")
  if needed > reserved then needed = reserved end
  if needed > zfs.get_prop(root, "available") - unused then refuse("space", root, "") end
end
local code = zfs.check.rollback(root)
if code ~= 0 and #refused == 0 then refuse("rollback", root, tostring(code)) end
if #refused > 0 or act ~= "do" then return {refused = refused, later = later} end
code = zfs.sync.set_prop(root, "ephemeroot:state", "new")
if code ~= 0 then
  refuse("mark", root, tostring(code))
  return {refused = refused}
end
for done, snapshot in ipairs(later) do
  code = zfs.sync.destroy(snapshot)
  if code ~= 0 then return {failed = snapshot, code = code, done = done - 1} end
end
code = zfs.sync.rollback(root)
if code ~= 0 then return {failed = root, code = code, done = #later} end
return {later = later}
"""

_HINTS = {
    "held": "'zfs release TAG SNAPSHOT' lets it go",
    "cloned": "'zfs promote CLONE' makes the clone independent, 'zfs destroy CLONE' deletes it",
    "bookmark": "'zfs destroy DATASET#BOOKMARK' deletes a bookmark",
    "refquota": "raise refquota, or take a smaller blank snapshot",
    "space": "free space in the pool, or lower refreservation",
}


class Rollback:
    """One rollback of the filesystem *root* to its snapshot *blank* (the part after @)."""

    __slots__ = ("blank", "boot", "outcome", "root")

    def __init__(self, boot: Boot, root: str, blank: str) -> None:
        self.boot = boot
        self.root = root
        self.blank = f"{root}@{blank}"
        self.outcome = Outcome(fresh={})

    def run(self) -> Outcome:
        """Roll back. See ``Wiper.wipe`` for what is raised and what holds then."""
        boot = self.boot
        if boot.request is not None:
            raise Refused(
                f"ephemeroot.root={boot.request}: a rollback keeps no old root to boot",
                'take ephemeroot.root= off the kernel command line, or set mode = "rotate"',
            )
        found = datasets.look(self.root, self.blank)
        self._require(found)
        stays = self._bookmarks(found[self.blank].createtxg)
        later = self._program("look", stays)
        with datasets.Private(self.blank, f"{boot.private}/fresh") as fresh:
            boot.prove(fresh.path)
        for snapshot in later:
            boot.log(f"destroy the snapshot {snapshot}")
        lived = found[self.root].state != datasets.NEW
        if boot.dry_run and lived:
            boot.describe_hand_over()
        boot.log(f"roll {self.root} back to {self.blank}")
        if boot.dry_run:
            return self.outcome
        with datasets.Private(self.root, f"{boot.private}/previous") as previous:
            boot.hand_over(previous.path, lived)
            identity = previous.fsid
        self._program("do", stays)
        self.outcome.fresh = {"dataset": self.root, "fsid": identity}
        return self.outcome

    def _require(self, found: dict[str, datasets.Dataset]) -> None:
        require_root(found.get(self.root), self.root)
        if self.blank not in found:
            raise Refused(
                f"the snapshot {self.blank} does not exist",
                f"when {self.root} is as fresh ones should be: 'zfs snapshot {self.blank}'",
            )

    def _bookmarks(self, since: int) -> list[str]:
        """The bookmarks older than the blank snapshot. Raises ``Refused`` for a newer one."""
        found = channel.bookmarks(self.root)
        newer = sorted(name for name, born in found.items() if born > since)
        if newer:
            self._refuse([{"what": "bookmark", "name": name, "by": ""} for name in newer])
        return sorted(found)

    def _program(self, act: str, stays: list[str]) -> list[str]:
        pool = datasets.pool(self.root)
        run = channel.change if act == "do" else channel.read
        said = run(pool, _PROGRAM, self.root, self.blank, act, *stays) or {}
        refused = channel.listed(said.get("refused"))
        if refused:
            self._refuse(refused)
        if said.get("failed"):
            raise EphemerootError(
                f"{said['failed']}: {os.strerror(int(said['code']))}, after {said['done']} later "
                "snapshots were destroyed: the root is as it was but for them"
            )
        return [str(name) for name in channel.listed(said.get("later"))]

    def _refuse(self, refused: list[dict[str, Any]]) -> None:
        lines = [_reason(str(one["what"]), str(one["name"]), str(one["by"])) for one in refused]
        raise Refused(
            f"{self.root} cannot be rolled back to {self.blank}: {'; '.join(lines)}",
            _HINTS.get(str(refused[0]["what"]), ""),
        )


def _reason(what: str, name: str, by: str) -> str:
    if what == "held":
        return f"{name} is held ({by})"
    if what == "cloned":
        return f"{name} has the clone {by}"
    if what == "bookmark":
        return f"{name} is a bookmark newer than that"
    if what == "missing":
        return f"{name} does not exist"
    if what == "refquota":
        return "that snapshot is larger than the dataset's refquota"
    if what == "space":
        return "there is no space left for its refreservation"
    code = int(by)
    if code == errno.EBUSY:
        return f"{name} is busy: it, or something in it, is mounted"
    return f"{name}: {os.strerror(code)}"


def require_root(found: datasets.Dataset | None, name: str) -> datasets.Dataset:
    """*found*, if a root can be made fresh there. Raises ``Refused``."""
    if found is None:
        raise Refused(
            f"the dataset {name} does not exist",
            f"'zfs list -r {datasets.pool(name)}' shows those that do; set dataset, or root=",
        )
    if found.type != "filesystem":
        raise Refused(f"{name} is a {found.type}, not a filesystem")
    if found.key_status == "unavailable":
        raise Refused(
            f"the key of {name} is not loaded",
            f"'zfs load-key {found.encryption_root}' loads it; the initramfs must, before the wipe",
        )
    if datasets.is_mounted(name):
        raise Refused(
            f"{name} is mounted",
            "it can only be made fresh before it is mounted, in the initramfs",
        )
    return found
