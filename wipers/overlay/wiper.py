"""The overlay wiper: the installed root stays as it is, read-only, below a layer made anew.

For installations that cannot be repartitioned. The layer above is a tmpfs, or a directory on
a volume, where retired ones stay for a while (``uppers``).
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mounts
from ephemeroot.wipers import attributes, names, placement, retention
from ephemeroot.wipers.contract import Finding, Needs, Option, Outcome, Wiper
from ephemeroot.wipers.overlay import uppers
from ephemeroot.wipers.overlay.history import OPTIONS, UpperHistory
from ephemeroot.wipers.overlay.uppers import Uppers
from ephemeroot.wipers.placement import Places
from ephemeroot.wipers.retention import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.contract import Boot
    from ephemeroot.wipers.history import Installed
    from ephemeroot.wipers.names import Name


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Overlay(Wiper):
    """Mounts an overlay over the installed root. See the contract for the methods."""

    NAME = "overlay"
    OPTIONS = (
        Option("type", "string", "ext4", "the type of the installed root's filesystem"),
        Option("volume", "volume", None, "mount point of the volume with the layers; none: memory"),
        Option("size", "amount", None, "how much a layer in memory may hold; by default half"),
        Option("keep-days", "integer", 30, "days for which every old layer is kept"),
        Option("keep-last", "integer", 3, "old layers that are kept whatever their age"),
        Option("min-free", "amount", None, "below it the oldest old layers go early"),
    )
    MOUNTS_ROOT = True

    __slots__ = ()

    @classmethod
    def needs(cls, settings: dict[str, object]) -> Needs:
        return Needs(kernel_modules=("overlay", str(settings["type"])))

    @classmethod
    def validate(cls, settings: dict[str, object]) -> list[Finding]:
        if settings.get("volume") and settings.get("size"):
            reason = "is for a layer in memory, and this one is on a volume"
            return [Finding("size", reason, "leave size or volume out")]
        if settings.get("min-free") and not settings.get("volume"):
            reason = "is for layers on a volume, and this one is in memory"
            return [Finding("min-free", reason, "name a volume, or leave min-free out")]
        return []

    @classmethod
    def starts_empty(cls, settings: dict[str, object]) -> bool:
        return False

    @classmethod
    def occupies(cls, settings: dict[str, object]) -> list[str]:
        volume = settings.get("volume")
        return [f"{str(volume).rstrip('/')}/{uppers.FOLDER}"] if volume else []

    def describe(self, target: str, device: str | None, subvolume: str | None) -> str:
        below = device or "the device of root="
        line = f"make {target} fresh: a new overlay over {below}, read-only, "
        if self._volume is None:
            return line + "with a layer in memory"
        policy = self._policy
        return (
            f"{line}with a layer on {self._volume}, old ones stay for {policy.keep_days} days, "
            f"the last {policy.keep_last} whatever their age"
        )

    def wipe(self, boot: Boot) -> Outcome:
        """Everything is proven on the root below: the fresh root has nothing else."""
        if boot.request is not None:
            raise Refused(
                f"ephemeroot.root={boot.request}: an old layer cannot be booted",
                "take ephemeroot.root= off the kernel command line",
            )
        places = Places(boot.private)
        try:
            below = places.attach(self.lower(boot), "below")
            boot.prove(below)
            if self._volume is None:
                return self._in_memory(boot, places, below)
            layers = Uppers(self._on_volume(boot))
            try:
                return self._on_disk(boot, places, below, layers)
            finally:
                layers.close()
        finally:
            places.close()

    def lower(self, boot: Boot) -> int:
        """A detached mount of the installed root, read-only."""
        options = [o for o in boot.root_flags if o not in ("rw", "ro")]
        return mounts.create(str(self.settings["type"]), boot.device, [*options, "ro"])

    def mark_lived(self, target: str) -> bool:
        return self._volume is not None and uppers.mark_lived(target)

    def is_fresh(self, target: str, fresh: dict[str, str]) -> bool:
        return str(os.stat(target).st_dev) == fresh.get("device")

    @property
    def keeps(self) -> bool:
        return self._volume is not None

    @property
    def boots_previous(self) -> bool:
        """Without a wipe the installed root boots, and not the layer of the boot before."""
        return not self.keeps

    @property
    def marks_kept(self) -> bool:
        return self.keeps

    def history(self, installed: Installed) -> UpperHistory:
        fstype = str(self.settings["type"])
        if self._volume is None:
            return UpperHistory(None, installed, fstype)
        where = installed.volumes.get(self._volume)
        if where is None or not os.path.ismount(where):
            raise Refused(f"the volume {self._volume} with the layers is not mounted", "mount it")
        layers = Uppers(where, create=False)
        min_free = self._min_free(layers) if layers.old >= 0 else 0
        return UpperHistory(layers, installed, fstype, self._policy, min_free)

    @property
    def _volume(self) -> str | None:
        volume = self.settings.get("volume")
        return str(volume) if volume else None

    @property
    def _policy(self) -> Policy:
        days, last = self.settings["keep-days"], self.settings["keep-last"]
        if not isinstance(days, int) or not isinstance(last, int):
            raise Refused(f"keep-days or keep-last is no number: {days!r}, {last!r}")
        return Policy(days, last)

    def _min_free(self, layers: Uppers) -> int:
        return retention.amount(self.settings.get("min-free"), layers.space()[1])

    def _on_volume(self, boot: Boot) -> str:
        try:
            return boot.volumes[str(self._volume)]
        except KeyError:
            raise Refused(
                f"the volume {self._volume} for the layers is not mounted",
                "it must be needed for boot: run 'ephemeroot check'",
            ) from None

    def _in_memory(self, boot: Boot, places: Places, below: str) -> Outcome:
        if boot.dry_run:
            return Outcome(fresh={})
        size = self.settings.get("size")
        options = ["mode=0700", *([f"size={size}"] if size is not None else [])]
        above = places.attach(mounts.create("tmpfs", "tmpfs", options), "layers")
        os.mkdir(f"{above}/{uppers.WORK}", 0o700)
        os.mkdir(f"{above}/{uppers.UPPER}", 0o700)
        _copy_attributes(below, f"{above}/{uppers.UPPER}")
        return Outcome(fresh=_mount(boot, places, below, above))

    def _on_disk(self, boot: Boot, places: Places, below: str, layers: Uppers) -> Outcome:
        above = places.attach(layers.mount(), "layers")
        layers.require_own(boot.system, take=not boot.dry_run)
        lived = layers.newest_lived()
        name = layers.next_name(boot, self._policy)
        keep = False
        if lived is not None:
            # Upper layers have no colons in their names, and the rest of the path is ours.
            stack = [*OPTIONS, f"lowerdir={above}/{lived}:{below}", "ro"]
            previous = places.attach(_overlay(stack), "previous")
            if boot.dry_run:
                boot.describe_hand_over()
            elif boot.hand_over(previous, True, _identity(lived, name), boots=False):
                if lived == uppers.UPPER:
                    keep = True
                else:
                    layers.mark_kept(lived)
        if boot.dry_run:
            return Outcome(fresh={})
        retired = layers.retire(boot, self._policy, keep=keep)
        outcome = Outcome(fresh={}, retired=str(retired) if retired else None)
        self._make(boot, below, layers, outcome)
        outcome.fresh = _mount(boot, places, below, above)
        self._prune(boot, layers, outcome)
        outcome.kept = [str(name) for name in layers.retired()]
        return outcome

    def _make(self, boot: Boot, below: str, layers: Uppers, outcome: Outcome) -> None:
        """Make a new layer; without space for it prune what is due, once."""
        pattern = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                layers.make(pattern, boot.now)
                return
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
            boot.log("no space for a new layer: old ones that are due go first")
            self._prune(boot, layers, outcome)
            try:
                layers.make(pattern, boot.now)
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                raise EphemerootError(
                    f"no space for a new layer on the volume {self._volume}",
                    "delete files there or, with 'ephemeroot roots delete', old layers",
                ) from error
        finally:
            os.close(pattern)

    def _prune(self, boot: Boot, layers: Uppers, outcome: Outcome) -> None:
        min_free = self._min_free(layers)
        outcome.pruned += layers.prune(boot, self._policy, outcome.problems, min_free)


def _mount(boot: Boot, places: Places, below: str, above: str) -> dict[str, str]:
    """Mount the fresh root at its place; returns what it is known by."""
    stack = [
        *OPTIONS,
        f"lowerdir={below}",
        f"upperdir={above}/{uppers.UPPER}",
        f"workdir={above}/{uppers.WORK}",
    ]
    path = places.attach(_overlay(stack), "fresh")
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise EphemerootError(
            "the overlay can only be mounted read-only", "the kernel's messages say why (dmesg)"
        )
    placement.put_in_place(path, boot.mount_point)
    return {"device": str(os.stat(path).st_dev)}


def _identity(lived: str, name: Name | None) -> str:
    """The name, without flags, that the layer *lived* has in the history or gets there."""
    known = name if lived == uppers.UPPER else names.parse(lived.rpartition("/")[2])
    return known.text if known is not None else ""


def _overlay(options: list[str]) -> int:
    try:
        return mounts.create("overlay", "overlay", options)
    except OSError as error:
        raise EphemerootError(
            f"the overlay cannot be mounted: {error.strerror}",
            "can the volume's filesystem carry one? (not NFS, vfat, or another overlay)",
        ) from error


def _copy_attributes(source: str, target: str) -> None:
    pattern = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attributes.copy(pattern, fd)
        finally:
            os.close(fd)
    finally:
        os.close(pattern)
