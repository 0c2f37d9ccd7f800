"""Back to the blank snapshot: one channel program that does all of it, or nothing.

Later changes and snapshots are lost: there is no
history. An error half-way through a channel program would not undo its earlier changes, so
everything that could fail is asked first, in the same program.
"""

from __future__ import annotations

import errno
import os

from ephemeroot import amounts
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import shell
from ephemeroot.wipers import marks
from ephemeroot.wipers.contract import Outcome
from ephemeroot.wipers.zfs import channel, datasets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ephemeroot.wipers.contract import Boot

# argv: the dataset, its blank snapshot, "do" or "look", and the bookmarks that may stay.
# Reservations are queried explicitly: freeing destroyed datasets takes time, and the rollback
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
  local born = zfs.get_prop(snapshot, "createtxg")
  if born > since then
    later[#later + 1] = {snapshot, born}
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
-- The newest first: should one fail, all that are older than it exist.
table.sort(later, function(one, other) return one[2] > other[2] end)
code = zfs.sync.set_prop(root, "ephemeroot:state", "new")
if code ~= 0 then
  refuse("mark", root, tostring(code))
  return {refused = refused}
end
for done, one in ipairs(later) do
  code = zfs.sync.destroy(one[1])
  if code ~= 0 then return {failed = one[1], code = code, done = done - 1} end
end
code = zfs.sync.rollback(root)
if code ~= 0 then return {failed = root, code = code, done = #later} end
return {later = later}
"""

_LISTED = 20  # snapshots in the log, each with its name

# A rollback writes the block of the object set again (dsl_dataset_zero_zil in OpenZFS's
# module/zfs/dsl_dataset.c): 4 KiB in at most three copies, on sectors of at most 64 KiB.
_OBJECT_SET = 1 << 20

# argv: the dataset. Its newest snapshot, and how many bytes were written since that.
_STATE = """
local name = (...)["argv"][1]
return {(zfs.get_prop(name, "prevsnap")), (zfs.get_prop(name, "written"))}
"""


class Rollback:
    """One rollback of the filesystem *root* to its snapshot *blank* (the part after @)."""

    __slots__ = ("blank", "boot", "outcome", "root")

    def __init__(self, boot: Boot, root: str, blank: str) -> None:
        self.boot = boot
        self.root = root
        self.blank = f"{root}@{blank}"
        self.outcome = Outcome(fresh={})

    def run(self) -> Outcome:
        """Roll back. See ``Wiper.wipe`` for the errors and the state after them."""
        boot = self.boot
        if boot.request is not None:
            raise Refused(
                f"ephemeroot.root={boot.request}: a rollback keeps no old root to boot",
                'remove ephemeroot.root= from the kernel command line, or set mode = "rotate"',
            )
        found = datasets.look(self.root, self.blank)
        self._require(found)
        stays = self._bookmarks(found[self.blank].createtxg)
        later = self._program("look", stays)
        if later and not found[self.root].state:
            raise first_refusal(self.root, self.blank, later)
        with datasets.Private(self.blank, f"{boot.private}/fresh") as fresh:
            boot.prove(fresh.path)
        for snapshot in later[:_LISTED]:
            boot.log(f"destroy the snapshot {snapshot}")
        if len(later) > _LISTED:
            more = len(later) - _LISTED
            boot.log(f"destroy {more} more snapshots, the last one {later[-1]}")
        complete = found[self.root].state != marks.NEW
        if boot.dry_run and complete:
            boot.describe_hand_over()
        boot.log(f"roll {self.root} back to {self.blank}")
        if boot.dry_run:
            return self.outcome
        with datasets.Private(self.root, f"{boot.private}/previous") as previous:
            boot.hand_over(previous.path, complete)
            identity = previous.fsid
        self._program("do", stays)
        self._require_done()
        self.outcome.fresh = {"dataset": self.root, "fsid": identity}
        return self.outcome

    def _require(self, found: dict[str, datasets.Dataset]) -> None:
        require_root(found.get(self.root), self.root)
        if self.blank not in found:
            raise missing_snapshot(found[self.root], self.blank)

    def _bookmarks(self, since: int) -> list[str]:
        """The bookmarks older than the blank snapshot. Raises ``Refused`` for a newer one."""
        found = channel.bookmarks(self.root)
        newer = sorted(name for name, born in found.items() if born > since)
        if newer:
            marks = [{"what": "bookmark", "name": name, "by": ""} for name in newer]
            raise refusal(self.root, self.blank, marks)
        return sorted(found)

    def _require_done(self) -> None:
        """Raise ``EphemerootError`` unless the root has what the blank snapshot has."""
        newest, written = channel.listed(channel.read(datasets.pool(self.root), _STATE, self.root))
        if newest != self.blank or written > _OBJECT_SET:
            raise EphemerootError(
                f"{self.root} was rolled back to {self.blank}, but its newest snapshot is "
                f"{newest}, and {amounts.size(written)} were written since"
            )

    def _program(self, act: str, stays: list[str]) -> list[str]:
        pool = datasets.pool(self.root)
        run = channel.change if act == "do" else channel.read
        said = run(pool, _PROGRAM, self.root, self.blank, act, *stays) or {}
        refused = channel.listed(said.get("refused"))
        if refused:
            raise refusal(self.root, self.blank, refused)
        if said.get("failed"):
            raise EphemerootError(
                f"{said['failed']}: {os.strerror(int(said['code']))}, after {said['done']} later "
                "snapshots were destroyed: the root is otherwise unchanged"
            )
        later = [channel.listed(one) for one in channel.listed(said.get("later"))]
        return [str(name) for name, _ in sorted(later, key=lambda one: int(one[1]))]


def first_refusal(root: str, blank: str, later: list[str]) -> Refused:
    """The error for snapshots *later* than *blank* before the first rollback of *root*: they are
    the administrator's, or a backup's; later ones are taken by those who know that they go.
    """
    shown = ", ".join(later[:3]) + (f" and {len(later) - 3} more" if len(later) > 3 else "")
    return Refused(
        f"the first rollback of {root} would destroy snapshots newer than {blank}: {shown}",
        f"'zfs destroy {shell.quoted(later[0] + '%')}' destroys them all; exclude {root} from "
        "the programs that take them",
    )


def refusal(root: str, blank: str, refused: list[dict[str, Any]]) -> Refused:
    """The error for what keeps *root* from being rolled back to *blank*: as the program has it,
    tables with ``what``, ``name`` and ``by``.
    """
    rows = [(str(one["what"]), str(one["name"]), str(one["by"])) for one in refused]
    lines = [_reason(*row) for row in rows]
    return Refused(
        f"{root} cannot be rolled back to {blank}: {'; '.join(lines)}",
        _hint(root, blank, *rows[0]),
    )


def _hint(root: str, blank: str, what: str, name: str, by: str) -> str:
    quoted = shell.quoted
    if what == "held":
        return (
            f"'zfs release {quoted(by)} {quoted(name)}' removes the hold; if a backup program "
            f"set it, exclude {root} from that first"
        )
    if what == "cloned":
        return (
            f"'zfs destroy {quoted(by)}' deletes the clone; do not promote it, or {blank} becomes "
            f"a snapshot of {by}"
        )
    if what == "bookmark":
        return (
            f"'zfs destroy {quoted(name)}' deletes it; if a backup program made it, exclude {root} "
            "from that first"
        )
    if what == "refquota":
        return f"'zfs set refquota=none {quoted(root)}', or take a smaller blank snapshot"
    if what == "space":
        return f"free space in the pool, or 'zfs set refreservation=none {quoted(root)}'"
    return ""


def _reason(what: str, name: str, by: str) -> str:
    if what == "held":
        return f"{name} is held ({by})"
    if what == "cloned":
        return f"{name} has the clone {by}"
    if what == "bookmark":
        return f"{name} is a bookmark newer than that snapshot"
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


def missing_snapshot(
    found: datasets.Dataset,
    name: str,
    look: Callable[..., dict[str, datasets.Dataset]] = datasets.look,
) -> Refused:
    """The error for *name*, a snapshot that the dataset *found* does not have. ``zfs promote``
    moves a snapshot, and all that are older, to the clone that is promoted: then taking another
    snapshot of the same name would make a used root the blank one.
    """
    short = name.partition("@")[2]
    chain = [found]
    while chain[-1].origin:
        origin = chain[-1].origin
        above = origin.partition("@")[0]
        seen = look(above, origin, f"{above}@{short}")
        if above not in seen or origin not in seen:
            break
        moved = seen.get(f"{above}@{short}")
        if moved is not None and moved.createtxg <= seen[origin].createtxg:
            commands = [f"zfs promote {shell.quoted(one.name)}" for one in reversed(chain)]
            return Refused(
                f"the snapshot {name} does not exist; {above}, of which {chain[-1].name} is a "
                f"clone, has {moved.name}",
                f"if it was moved by promoting {above}, '{' && '.join(commands)}' moves it back",
            )
        chain.append(seen[above])
    return Refused(
        f"the snapshot {name} does not exist",
        f"when {found.name} has the content that new roots should have: 'zfs snapshot "
        f"{shell.quoted(name)}'",
    )


def require_root(found: datasets.Dataset | None, name: str) -> datasets.Dataset:
    """*found*, if a root can be made fresh there. Raises ``Refused``."""
    if found is None:
        raise Refused(
            f"the dataset {name} does not exist",
            f"'zfs list -r {shell.quoted(datasets.pool(name))}' lists the datasets; set dataset, "
            "or root=",
        )
    if found.type != "filesystem":
        raise Refused(f"{name} is a {found.type}, not a filesystem")
    if found.key_status == "unavailable":
        at = shell.quoted(found.encryption_root)
        raise Refused(
            f"the key of {name} is not loaded",
            f"'zfs load-key {at}' loads it; the initramfs must load it before the wipe",
        )
    if datasets.is_mounted(name):
        raise Refused(
            f"{name} is mounted",
            "it can only be made fresh before it is mounted, in the initramfs",
        )
    return found
