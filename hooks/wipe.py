"""The wipe: hand what is to be made fresh to its wiper, after every proof."""

from __future__ import annotations

import os
import sys
import time

from ephemeroot.errors import Damaged, DeviceMissing, EphemerootError, Refused
from ephemeroot.hooks import clock, machine_id, proofs, remount, seed, waiting
from ephemeroot.hooks.operation import REQUIRED, Operation
from ephemeroot.hooks.volumes import Attach, Volume
from ephemeroot.linux import devices, mounts
from ephemeroot.wipers import contract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

WIPED = "wiped"
"""The record in the run directory that says what this boot has made fresh."""

DEVICE_TIMEOUT = 90
"""Seconds that a device with something to wipe is waited for; systemd's own default."""


class Wipe(Operation):
    """Make the root of ``target`` fresh.

    ``attribute`` is the wiper's class as ``module:attribute``. ``device`` and
    ``subvolume`` are what the configuration names; left out, the kernel command line
    decides; given and different from it, nothing is wiped.
    """

    KIND = "wipe"
    FIELDS: tuple[tuple[str, str, object], ...] = (
        ("target", "path", REQUIRED),
        ("wiper", "name", REQUIRED),
        ("attribute", "text", REQUIRED),
        ("device", "text", None),
        ("subvolume", "relative path", None),
        ("settings", "table", {}),
    )
    __slots__ = ("attribute", "device", "settings", "subvolume", "target", "wiper")
    target: str
    wiper: str
    attribute: str
    device: str | None
    subvolume: str | None
    settings: dict[str, object]

    def leaves_nothing(self, stage: Stage) -> bool:
        """Whether the machine has no root but the one that this makes: none can be kept."""
        try:
            wiper = self.load()
        except Damaged:
            return False  # whoever carries it out will say so
        return (
            self.target == "/"
            and wiper.EPHEMERAL
            and not wiper.ON_DEVICE
            and not type(wiper).mismatch(self.settings, stage.cmdline.get("root"))
        )

    def describe(self) -> str:
        return self.load().describe(self.target, self.device, self.subvolume)

    def load(self) -> contract.Wiper:
        """The wiper with its settings. Raises ``Damaged`` if its code is not there."""
        module, _, name = self.attribute.partition(":")
        try:
            __import__(module)
            kind = getattr(sys.modules[module], name)
            wiper = kind(self.settings)
        except (ImportError, AttributeError) as error:
            raise Damaged(
                f"the wiper {self.wiper} ({self.attribute}) is missing: {error}"
            ) from None
        except Exception as error:  # somebody else's code may raise anything
            raise Damaged(
                f"the wiper {self.wiper} ({self.attribute}) is broken: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(wiper, contract.Wiper):
            raise Damaged(f"{self.attribute} is no wiper")
        return wiper

    def execute(self, stage: Stage) -> str:
        """Raises ``Refused`` if a proof failed and nothing was changed."""
        wiper = self.load()
        device, subvolume = self._what(stage) if wiper.ON_DEVICE else self._no_device(stage, wiper)
        now = time.time()
        boot = contract.Boot(
            device=device,
            subvolume=subvolume,
            target=self.target,
            private=stage.private("wiper"),
            shared=stage.shared,
            boot_id=stage.boot_id,
            now=now,
            synchronised=clock.is_synchronised(),
            prove=lambda path: self._prove(stage, path),
            log=stage.report.log,
            previous=lambda path, lived: self._carry_over(stage, path, lived),
            request=stage.old_root if self.target == "/" else None,
            root=stage.cmdline.get("root"),
            root_flags=stage.cmdline.root_flags(),
            mount_point=stage.target,
            mount_points=[o.mount_point for o in stage.plan.persist if isinstance(o, Attach)],
            volumes={
                o.mount_point: stage.volume(o.name)
                for o in stage.plan.wipe
                if isinstance(o, Volume)
            },
        )
        outcome = wiper.wipe(boot)
        for line in outcome.problems:
            stage.report.problem(line)
        facts: dict[str, object] = {
            "target": self.target,
            "wiper": self.wiper,
            "attribute": self.attribute,
            "settings": self.settings,
            "fresh": outcome.fresh,
            "retired": outcome.retired,
            "pruned": outcome.pruned,
            "kept": outcome.kept,
            "recovered": outcome.recovered,
        }
        record = stage.recall(WIPED) or {"boot-id": stage.boot_id}
        record[self.target] = facts
        stage.remember(WIPED, record)
        if wiper.MOUNTS_ROOT:
            remount.prevent(stage)
        stage.report.set(f"wiped {self.target}", facts)
        return f"retired {outcome.retired}" if outcome.retired else "fresh"

    def _prove(self, stage: Stage, path: str) -> None:
        if self.target == "/":
            proofs.require_bootable(stage, path)

    def _carry_over(self, stage: Stage, previous: str, lived: bool) -> None:
        """Save into the stores what they lack and the root that is about to go has.

        A root that never lived holds nothing that the administrator ever saw.
        """
        if not lived:
            return
        root = self._as_root(stage, previous)
        try:
            for operation in stage.plan.persist:
                if not self._covers(stage, operation):
                    continue
                started = time.monotonic()
                saved = self._saved(stage, operation, root)
                if saved:
                    stage.report.operation(operation, saved, time.monotonic() - started)
            stage.sync_stores()
        finally:
            os.close(root)
            if self.target != "/":
                mounts.detach(stage.private("previous") + self.target)

    def _as_root(self, stage: Stage, previous: str) -> int:
        """*previous*, opened as a root in which it has its place: a volume below its mount
        point.
        """
        place = previous
        if self.target != "/":
            place = stage.private("previous")
            os.makedirs(place + self.target, 0o700, exist_ok=True)
            proofs.bind(previous, place + self.target)
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _covers(self, stage: Stage, operation: Operation) -> bool:
        """Whether what *operation* is about lay in what is wiped here."""
        path = getattr(operation, "path", "/") + "/"
        wiped = {o.target for o in stage.plan.wipe if isinstance(o, Wipe)}
        above = [target for target in wiped if path.startswith(target.rstrip("/") + "/")]
        return max(above, key=len, default="/") == self.target

    def _saved(self, stage: Stage, operation: Operation, root: int) -> str:
        """Carry one path over. Only what is lost for good by wiping now stops the wipe:
        a store that cannot take the path. A hostile shape in the store does not.
        """
        try:
            return operation.carry_over(stage, root)
        except Refused:
            raise
        except (EphemerootError, OSError) as error:
            if isinstance(error, OSError) and seed.takes_nothing(error):
                path = getattr(operation, "path", machine_id.PATH)
                raise seed.cannot_take(getattr(operation, "store", "?"), path, error) from error
            stage.report.problem(f"{operation.describe()}: not carried over: {error}")
            return ""

    def _no_device(self, stage: Stage, wiper: contract.Wiper) -> tuple[str, None]:
        """The wiper knows by itself what it makes fresh; only root= must not be another."""
        reason = type(wiper).mismatch(self.settings, stage.cmdline.get("root"))
        if self.target == "/" and reason:
            raise Refused(
                f"the kernel command line boots root={stage.cmdline.get('root')}: {reason}",
                "make root= and the configuration agree",
            )
        return "", None

    def _what(self, stage: Stage) -> tuple[str, str | None]:
        """Device path and subvolume: the plan's, the command line's, never two truths."""
        if self.target != "/":
            if self.device is None:
                raise Damaged(f"the wipe of {self.target} names no device")
            return _device(stage, self.device, bootable=True), self.subvolume
        asked = stage.cmdline.root_device()
        asked_subvolume = stage.cmdline.root_subvolume()
        spec = self.device or asked
        if spec is None:
            raise Refused(
                "neither the configuration nor root= on the kernel command line names a device",
                "set device in the wiper's table",
            )
        # What the kernel command line boots may be there all the same.
        path = _device(stage, spec, bootable=spec != asked and _is_there(asked))
        if self.device is not None and asked is not None:
            _require_same_device(stage, self.device, path, asked)
        if self.subvolume is not None and asked_subvolume not in (None, self.subvolume):
            raise Refused(
                f"the root to wipe is the subvolume {self.subvolume}, "
                f"the kernel command line boots {asked_subvolume}",
                "make rootflags=subvol= and the configuration agree",
            )
        return path, self.subvolume if self.subvolume is not None else asked_subvolume


def _device(stage: Stage, spec: str, *, bootable: bool = False) -> str:
    """*bootable*: there is a root to boot also without that device."""
    try:
        return waiting.device(stage, spec, DEVICE_TIMEOUT, f"the root's device {spec}")
    except DeviceMissing as error:
        if not bootable:
            raise
        raise Refused(error.message, error.hint) from None


def _is_there(spec: str | None) -> bool:
    try:
        return spec is not None and os.path.exists(devices.link(spec))
    except ValueError:
        return False


def _require_same_device(stage: Stage, configured: str, path: str, asked: str) -> None:
    asked_path = _device(stage, asked)
    if devices.number(path) == devices.number(asked_path):
        return
    uuid = devices.btrfs_uuid(path)
    if uuid is not None and uuid == devices.btrfs_uuid(asked_path):
        return  # two devices of one filesystem
    raise Refused(
        f"the root to wipe is on {configured}, the kernel command line boots {asked}",
        "make root= and the configuration agree",
    )
