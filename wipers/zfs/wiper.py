"""The ZFS wiper: the root goes back to a snapshot, or gets a successor cloned from a base.

``rollback`` keeps nothing and takes one transaction group; ``rotate`` keeps the previous
roots, as the btrfs wiper does. See ``rollback`` and ``rotation`` for the steps.
"""

from __future__ import annotations

import os

from ephemeroot.errors import Refused
from ephemeroot.wipers import contract, pruning, retention
from ephemeroot.wipers.contract import Finding, Needs, Option, Wiper
from ephemeroot.wipers.history import require_owner
from ephemeroot.wipers.marks import BOOT_COMPLETE, NEW
from ephemeroot.wipers.pruning import Clock
from ephemeroot.wipers.zfs import datasets
from ephemeroot.wipers.zfs.datasets import AUTO, STATE
from ephemeroot.wipers.zfs.history import DatasetHistory
from ephemeroot.wipers.zfs.rollback import Rollback
from ephemeroot.wipers.zfs.rotation import DatasetRotation, temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.contract import Boot, Named, Outcome
    from ephemeroot.wipers.history import History, Installed

ROLLBACK = "rollback"
ROTATE = "rotate"
_ONLY_ROTATE = ("base", "old-roots", "keep-at-most", "min-free")

# zfsconcepts(7): what a name may be made of, and how long it may be in all.
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.: ")
_LONGEST = 255
# Of old-roots it is as much less as '/2026-11-23T02-15-00Z.99.unsynced.unused.keep' and the
# snapshot '@ephemeroot-2026-11-23T02-15-00Z.99' of it take.
_LONGEST_OLD_ROOTS = _LONGEST - 80


class Zfs(Wiper):
    """Makes a ZFS dataset fresh. See the contract for the methods."""

    NAME = "zfs"
    OPTIONS = (
        Option("mode", "string", ROLLBACK, "rollback to a snapshot, or rotate and keep old roots"),
        Option("dataset", "dataset", None, "the root; by default what root= names"),
        Option("snapshot", "string", "blank", "name of the snapshot of the root, or of the base"),
        Option("base", "dataset", None, "rotate: fresh roots are clones of its snapshot"),
        Option("old-roots", "dataset", None, "rotate: parent of old roots; 'old-roots' beside it"),
        *contract.retention(only="rotate:"),
    )
    ON_DEVICE = False
    BOOTS_OLD_ROOTS = True
    # OpenZFS's dracut module: zfs-snapshot-bootfs.service and zfs-rollback-bootfs.service.
    KEPT_BY = ("bootfs.snapshot", "bootfs.rollback")
    INSTALLED = "ephemeroot.backends.zfs:Zfs"

    __slots__ = ()

    @classmethod
    def needs(cls, settings: dict[str, object]) -> Needs:
        # zpool tells and sets bootfs; zfs clones with native properties, for which a channel
        # program has nothing and libzfs_core wants the kernel's numbers.
        return Needs(
            kernel_modules=("zfs",),
            programs=("zpool", "zfs") if settings.get("mode") == ROTATE else ("zpool",),
            python=("libzfs_core",),
            exercise=("ephemeroot.wipers.zfs.channel:exercise",),
            systemd="a pool is imported only when the root is mounted, after the wipe",
        )

    @classmethod
    def validate(cls, settings: dict[str, object]) -> list[Finding]:
        mode = settings.get("mode")
        if mode not in (ROLLBACK, ROTATE):
            return [Finding("mode", f"{mode!r} is unknown", f'write "{ROLLBACK}" or "{ROTATE}"')]
        findings = []
        snapshot = str(settings.get("snapshot"))
        if not set(snapshot) <= _CHARACTERS or len(snapshot) > _LONGEST:
            hint = "write only the part after @"
            findings.append(
                Finding("snapshot", f"{snapshot!r} is not the name of a snapshot", hint)
            )
        if mode == ROTATE:
            return [*findings, *_rotation_findings(settings)]
        return findings + [
            Finding(key, "has no effect on a rollback", f'leave it out, or set mode = "{ROTATE}"')
            for key in _ONLY_ROTATE
            if settings.get(key) is not None
        ]

    @classmethod
    def starts_empty(cls, settings: dict[str, object]) -> bool:
        return False

    @classmethod
    def mismatch(cls, settings: dict[str, object], root: str | None) -> str:
        named, wanted = datasets.of_root(root), settings.get("dataset")
        if named == AUTO:
            if settings.get("mode") == ROTATE:
                # It is found by its object number, and that is the old root's after a power cut.
                return "a root that is rotated must be booted by its name, root=zfs:DATASET"
            return (
                ""
                if wanted
                else ("no dataset is named: set dataset, or boot with root=zfs:DATASET")
            )
        if not named:
            return "it is not a dataset: a root on ZFS is booted with root=zfs:DATASET"
        if wanted and named != wanted:
            return f"the dataset to make fresh is {wanted}"
        return ""

    @classmethod
    def completed(cls, settings: dict[str, object], root: str | None) -> dict[str, object]:
        named = datasets.of_root(root)
        if settings.get("dataset") or not named or named == AUTO:
            return settings
        return settings | {"dataset": named}

    @classmethod
    def foreign(cls, settings: dict[str, object], root: str | None) -> str:
        # Of the pool's bootfs only the pool knows which dataset it is.
        return "" if datasets.of_root(root) == AUTO else cls.mismatch(settings, root)

    def identify(self, named: Named) -> dict[str, str]:
        dataset = datasets.of_root(named.root)
        if dataset == AUTO:
            dataset = str(self.settings.get("dataset") or "")
        if not dataset:
            return {}
        found = {"dataset": dataset}
        if named.reads:
            found["pool"] = datasets.pool_guid(dataset)
        return found

    def identify_mounted(self, target: str) -> dict[str, str]:
        dataset = datasets.mounted_at(target)
        return {"dataset": dataset} if dataset else {}

    @classmethod
    def takes(cls, settings: dict[str, object], root: str | None, device: str) -> str:
        named = datasets.of_root(root)
        dataset = str(settings.get("dataset") or ("" if named == AUTO else named))
        if dataset and device == dataset:
            return f"{device} is the dataset that is made fresh"
        if settings.get("base") and device == settings["base"]:
            return f"{device} is the base"
        if settings.get("mode") != ROTATE:
            return ""  # the nested dataset is separate, and stays
        old_roots = str(settings.get("old-roots") or _beside(dataset))
        for what, above in (("the root", dataset), ("old-roots", old_roots)):
            if above and datasets.is_below(device, above):
                return f"{device} is in {what} ({above})"
        return ""

    def describe(self, target: str, device: str | None, subvolume: str | None) -> str:
        settings = self.settings
        what = settings.get("dataset") or "the dataset of root="
        if settings["mode"] == ROLLBACK:
            return f"roll {target} back: {what} becomes its snapshot @{settings['snapshot']} again"
        where = settings.get("old-roots") or "old-roots beside it"
        return (
            f"rotate {target}: {what} becomes a clone of {self._source}, the previous one goes to "
            f"{where} for {settings['keep-days']} days, the last {settings['keep-last']} are kept"
        )

    def wipe(self, boot: Boot) -> Outcome:
        root = self._root(boot.root if boot.target == "/" else None)
        if boot.target == "/" and datasets.of_root(boot.root) == AUTO:
            _require_bootfs(root)
        if boot.target != "/":
            from ephemeroot.linux import dataset_keys

            dataset_keys.load(root)
        if self.settings["mode"] == ROLLBACK:
            from ephemeroot.wipers.zfs import channel

            lock = channel.lock()
            try:
                return Rollback(boot, root, str(self.settings["snapshot"])).run()
            finally:
                os.close(lock)
        with self._history(root, boot.system) as history:
            if boot.dry_run:
                require_owner(history.where, history.owner(), boot.system)
            else:
                history.require_own()
            clock = Clock(boot.now, synchronised=boot.synchronised)
            prune = pruning.by_settings(history, clock, pinned=boot.pinned)
            return DatasetRotation(boot, history, prune, base=str(self.settings["base"])).run()

    def is_fresh(self, target: str, fresh: dict[str, str]) -> bool:
        return datasets.mounted_at(target) == fresh.get("dataset", "?") and datasets.fsid(
            target
        ) == fresh.get("fsid")

    def mark_boot_complete(self, root: int) -> bool:
        from ephemeroot.wipers.zfs import listing

        name = datasets.opened_on(root)
        found = listing.look(name).get(name) if name else None
        if found is None or not found.state:
            return False
        if found.state == NEW:
            datasets.mark(name, STATE, BOOT_COMPLETE)
        return True

    @property
    def keeps(self) -> bool:
        return self.settings["mode"] == ROTATE

    @property
    def marks_kept(self) -> bool:
        """A rollback leaves no old root that could be kept."""
        return self.keeps

    def history(self, installed: Installed) -> History:
        """The old roots; after a rollback none, but what the root was made of."""
        root = self._root(installed.root if installed.target == "/" else None)
        return self._history(root, installed.system, listed=True)

    def _history(self, root: str, system: str, *, listed: bool = False) -> DatasetHistory:
        rotates = self.settings["mode"] == ROTATE
        old_roots = self._old_roots(root) if rotates else ""
        if rotates:
            _require_apart(root, old_roots, self.settings.get("base"))
        return DatasetHistory(
            root,
            old_roots,
            source=self._source if rotates else f"{root}@{self.settings['snapshot']}",
            policy=retention.policy(self.settings),
            min_free=self.settings.get("min-free"),
            system=system,
            listed=listed,
        )

    @property
    def _source(self) -> str:
        return f"{self.settings.get('base')}@{self.settings['snapshot']}"

    def _root(self, root: str | None) -> str:
        """The dataset to make fresh: the settings', else the one that ``root=`` names."""
        named = self.settings.get("dataset") or datasets.of_root(root)
        if not named or named == AUTO:
            raise Refused(
                "the dataset to make fresh is not named", "set dataset in the wiper's table"
            )
        return str(named)

    def _old_roots(self, root: str) -> str:
        named = self.settings.get("old-roots")
        if named:
            return str(named)
        return _beside(root)


def _beside(root: str) -> str:
    """Where old roots are kept unless the settings say it; empty if the root is not known."""
    return f"{root.rpartition('/')[0] or root}/old-roots" if root else ""


def _rotation_findings(settings: dict[str, object]) -> list[Finding]:
    findings = []
    root, old_roots, base = (settings.get(key) for key in ("dataset", "old-roots", "base"))
    if not base:
        hint = "name the dataset whose snapshot fresh roots are clones of"
        return [Finding("base", "must be named to rotate", hint)]
    named = str(root) if root else ""
    try:
        _require_apart(named, str(old_roots) if old_roots else _beside(named), base)
    except Refused as error:
        findings.append(Finding("old-roots" if old_roots else "base", error.message, error.hint))
    return findings


def _require_apart(root: str, old_roots: str, base: object) -> None:
    """Raise ``Refused`` unless root, old-roots and base are beside each other, in one pool."""
    from ephemeroot.linux import shell

    named = {"the root": root, "old-roots": old_roots, "the base": str(base) if base else ""}
    if root and "/" not in root:
        raise Refused(
            f"the root {root} is a pool", "move the system into a dataset: POOL/ROOT/NAME"
        )
    if root and len(temporary(root)) > _LONGEST:
        raise Refused(
            f"the name of the root {root[:40]}… is too long for a rotation",
            f"'zfs rename {shell.quoted(root)} NAME', with at most "
            f"{_LONGEST - len(temporary(''))} characters in NAME",
        )
    if len(old_roots) > _LONGEST_OLD_ROOTS:
        raise Refused(
            f"the name of old-roots {old_roots[:40]}… is too long for the names of old roots in it",
            f"set old-roots to a name of at most {_LONGEST_OLD_ROOTS} characters",
        )
    pairs = [
        (one, other)
        for one, name in named.items()
        for other, above in named.items()
        if one != other and name and above and datasets.is_below(name, above)
    ]
    if pairs:
        one, other = pairs[0]
        raise Refused(
            f"{one} ({named[one]}) is in {other} ({named[other]})",
            "name datasets that do not contain each other",
        )
    if len({datasets.pool(name) for name in named.values() if name}) > 1:
        raise Refused(
            "root, base and old-roots are in different pools",
            "a clone stays in its pool: name datasets of one pool",
        )


def _require_bootfs(root: str) -> None:
    """With ``root=zfs:AUTO`` the pool's ``bootfs`` is booted: it must be the dataset that is made
    fresh.
    """
    from ephemeroot.linux import programs, shell

    pool = datasets.pool(root)
    said = programs.run("zpool", "list", "-Ho", "bootfs").split("\n")
    # As OpenZFS's dracut module has it: the first pool that has one.
    booted = next((line for line in said if line not in ("", "-")), "")
    if booted != root:
        raise Refused(
            f"the kernel command line boots the pool's bootfs, {booted or 'which is not set'}, "
            f"not {root}",
            f"zpool set {shell.quoted(f'bootfs={root}')} {shell.quoted(pool)}",
        )
