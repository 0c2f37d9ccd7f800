"""The overlay wiper: the installed root stays as it is, read-only, below a layer made again.

For installations that cannot be repartitioned. The layer above is a tmpfs, or a directory on
a volume, where retired ones stay for a while (``uppers``).
"""

from __future__ import annotations

import os

from ephemeroot.errors import Refused
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.wipers import attributes, contract, marks, memory, pruning, retention
from ephemeroot.wipers.contract import Finding, Needs, Option, Outcome, Wiper
from ephemeroot.wipers.history import Installed
from ephemeroot.wipers.overlay import previous, stack, uppers
from ephemeroot.wipers.overlay.history import UpperHistory
from ephemeroot.wipers.overlay.rotation import LayerRotation
from ephemeroot.wipers.overlay.uppers import Uppers
from ephemeroot.wipers.placement import Places
from ephemeroot.wipers.pruning import Clock
from ephemeroot.wipers.retention import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ephemeroot.wipers.contract import Boot


class Overlay(Wiper):
    """Mounts an overlay over the installed root. See the contract for the methods."""

    NAME = "overlay"
    OPTIONS = (
        Option("type", "string", "ext4", "the type of the installed root's filesystem"),
        Option("volume", "volume", None, "mount point of the volume with the layers; none: memory"),
        Option("size", "amount", None, "size limit of a layer in memory; by default half of it"),
        *contract.retention("old layer"),
    )
    MOUNTS_ROOT = True
    LAYERED = True
    INSTALLED = "ephemeroot.backends.overlay:Overlay"

    __slots__ = ()

    @classmethod
    def needs(cls, settings: dict[str, object]) -> Needs:
        return Needs(kernel_modules=("overlay", str(settings["type"])))

    @classmethod
    def validate(cls, settings: dict[str, object]) -> list[Finding]:
        if settings.get("volume") and settings.get("size"):
            reason = "is for a layer in memory, but the layer is on a volume"
            return [Finding("size", reason, "leave size or volume out")]
        if found := memory.size_findings(settings.get("size")):
            return found
        if settings.get("min-free") and not settings.get("volume"):
            reason = "is for layers on a volume, but the layer is in memory"
            return [Finding("min-free", reason, "name a volume, or leave min-free out")]
        return []

    @classmethod
    def starts_empty(cls, settings: dict[str, object]) -> bool:
        return False

    @classmethod
    def root_type(cls, settings: dict[str, object]) -> str:
        return str(settings["type"])

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
            f"{line}with a layer on {self._volume}, old layers are kept for {policy.keep_days} "
            f"days, the last {policy.keep_last} whatever their age"
        )

    def wipe(self, boot: Boot) -> Outcome:
        """Everything is proven on the root below: the fresh root has nothing else."""
        if boot.request is not None:
            raise Refused(
                f"ephemeroot.root={boot.request}: an old layer cannot be booted",
                "remove ephemeroot.root= from the kernel command line",
            )
        places = Places(boot.private)
        try:
            below = places.attach(self.lower(boot), "below")
            boot.prove(below)
            if self._volume is None:
                return self._in_memory(boot, places, below)
            return self._on_disk(boot, places, below)
        finally:
            places.close()

    def lower(self, boot: Boot) -> int:
        """A detached mount of the installed root, read-only."""
        return stack.installed(str(self.settings["type"]), boot.device, boot.root_flags)

    def fall_back(self, boot: Boot) -> Outcome:
        places = Places(boot.private)
        try:
            below = places.attach(self.lower(boot), "below")
            return self._make_in_memory(boot, places, below)
        finally:
            places.close()

    def mount_below(self, installed: Installed) -> int:
        with UpperHistory(None, installed, str(self.settings["type"])) as history:
            return history.mount_base()

    def open_layer(self, installed: Installed, booted: Iterable[dict[str, dict[str, str]]]) -> int:
        if self._volume is None:
            return -1
        with self.history(installed) as history:
            layers = history.layers
            if layers is None or layers.old < 0 or history.is_anothers:
                return -1
            found = previous.find(booted, installed.device, layers, history)
            return history.open_layer(found.entry) if found.kind == previous.LAYER else -1

    def mark_boot_complete(self, root: int) -> bool:
        return self._volume is not None and marks.mark_boot_complete(root, marks.owner(root))

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
        # Not os.path.ismount: a directory of the same filesystem may be mounted there.
        if where is None or mountinfo.mounted_at(os.path.realpath(where)) is None:
            raise Refused(
                f"the volume {self._volume} with the layers is not mounted",
                f"run 'mount {self._volume}'",
            )
        below = uppers.below(installed.device, fstype, installed.subvolume, installed.root_flags)
        return self._history(Uppers(where, below, create=False), installed)

    def _history(self, layers: Uppers, installed: Installed) -> UpperHistory:
        """The history of *layers*, which it closes."""
        fstype = str(self.settings["type"])
        try:
            total = layers.space()[1] if layers.old >= 0 else 0
            min_free = retention.amount(self.settings.get("min-free"), total)
            return UpperHistory(layers, installed, fstype, self._policy, min_free)
        except BaseException:
            layers.close()
            raise

    @property
    def _volume(self) -> str | None:
        volume = self.settings.get("volume")
        return str(volume) if volume else None

    @property
    def _policy(self) -> Policy:
        return retention.policy(self.settings)

    def _on_volume(self, boot: Boot) -> str:
        try:
            return boot.volumes[str(self._volume)]
        except KeyError:
            raise Refused(
                f"the volume {self._volume} for the layers is not mounted",
                "it must be a volume needed for boot: run 'ephemeroot check'",
            ) from None

    def _in_memory(self, boot: Boot, places: Places, below: str) -> Outcome:
        if boot.booted and "kept" in boot.booted[0]:
            self._hand_over(boot, below)
        return Outcome(fresh={}) if boot.dry_run else self._make_in_memory(boot, places, below)

    def _make_in_memory(self, boot: Boot, places: Places, below: str) -> Outcome:
        size = self.settings.get("size")
        options = ["mode=0700", *([f"size={size}"] if size is not None else [])]
        above = places.attach(mounts.create("tmpfs", "tmpfs", options), "layers")
        os.mkdir(f"{above}/{uppers.WORK}", 0o700)
        os.mkdir(f"{above}/{uppers.UPPER}", 0o700)
        _copy_attributes(below, f"{above}/{uppers.UPPER}")
        return Outcome(fresh=stack.mount_root(boot, places, below, above))

    def _hand_over(self, boot: Boot, below: str) -> None:
        """Seed the stores from the installed root, which the boot before used."""
        if not previous.is_installed(boot.booted[0]["kept"], boot.device):
            return
        if boot.dry_run:
            boot.describe_hand_over()
        else:
            boot.hand_over(below, True)

    def _on_disk(self, boot: Boot, places: Places, below: str) -> Outcome:
        installed = Installed(
            device=boot.device,
            private=boot.private,
            writable=True,
            root_flags=boot.root_flags,
            system=boot.system,
        )
        fstype = str(self.settings["type"])
        name = uppers.below(boot.device, fstype, boot.subvolume, boot.root_flags)
        volume = self._on_volume(boot)
        stack.require_apart(below, volume, str(self._volume))
        try:
            layers = Uppers(volume, name)
        except OSError as error:
            raise uppers.failed(str(self._volume), error) from error
        with self._history(layers, installed) as history:
            clock = Clock(boot.now, synchronised=boot.synchronised)
            prune = pruning.by_settings(history, clock, pinned=boot.pinned)
            return LayerRotation(
                boot, history, prune, layers, places=places, below=below, volume=str(self._volume)
            ).run()


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
