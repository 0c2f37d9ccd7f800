"""The wipe: pass the target to its wiper, after all proofs."""

from __future__ import annotations

import os
import sys
import time

from ephemeroot.errors import Damaged, EphemerootError, Refused
from ephemeroot.hooks.guards import clock, ownership, proofs
from ephemeroot.hooks.operation import Operation, field
from ephemeroot.hooks.operations import remount
from ephemeroot.hooks.stage import FALLBACK, WIPED
from ephemeroot.hooks.store import booted
from ephemeroot.linux import devices, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.operations.handover import HandOver
    from ephemeroot.hooks.stage import Stage
    from ephemeroot.wipers.boot import Boot, Outcome
    from ephemeroot.wipers.contract import Wiper


class Wipe(Operation):
    """Make the root of ``target`` fresh.

    ``attribute`` is the wiper's class as ``module:attribute``. ``device`` and
    ``subvolume`` are what the configuration names; left out, the kernel command line
    decides. ``identity`` is the root that the plan was applied for (``Wiper.identify``): one that
    is another is not wiped, see ``ownership``.
    """

    KIND = "wipe"
    target: str = field("absolute path", "the mount point: /, or that of a volume")
    wiper: str = field("name", "the wiper's name in the configuration")
    attribute: str = field("text", "the wiper's class, as module:attribute")
    device: str | None = field("text", "the device; else root= names it", default=None)
    subvolume: str | None = field("path", "the root's name on it; else rootflags=", default=None)
    settings: dict[str, object] = field("table", "the wiper's own options", default={})
    identity: dict[str, object] = field("table", "the root that it was applied for", default={})

    def leaves_nothing(self, stage: Stage) -> bool:
        """Whether the machine has no root but the one that this makes: none can be kept."""
        try:
            wiper = self.load()
        except Damaged:
            return False  # executing it reports the error
        return (
            self.target == "/"
            and wiper.EPHEMERAL
            and not wiper.ON_DEVICE
            and not type(wiper).mismatch(self.settings, stage.cmdline.get("root"))
        )

    def describe(self) -> str:
        return self.load().describe(self.target, self.device, self.subvolume)

    def load(self) -> Wiper:
        """The wiper with its settings. Raises ``Damaged`` if its code is missing."""
        from ephemeroot.wipers.contract import Wiper

        module, _, name = self.attribute.partition(":")
        try:
            __import__(module)
            kind = getattr(sys.modules[module], name)
            wiper = kind(self.settings)
        except (ImportError, AttributeError) as error:
            raise Damaged(
                f"the wiper {self.wiper} ({self.attribute}) is missing: {error}"
            ) from None
        except Exception as error:  # third-party code may raise anything
            raise Damaged(
                f"the wiper {self.wiper} ({self.attribute}) is broken: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(wiper, Wiper):
            raise Damaged(f"{self.attribute} is not a wiper")
        if wrong := values.misfit(wiper.OPTIONS, wiper.settings):
            value = wiper.settings[wrong]
            raise Damaged(f"the wiper {self.wiper} cannot have {wrong} = {value!r}")
        return wiper

    def execute(self, stage: Stage) -> str:
        """Raises ``Refused`` if a proof failed and nothing was changed."""
        wiper = self.load()
        device, subvolume = self._what(stage) if wiper.ON_DEVICE else self._no_device(stage, wiper)
        hand_over = self._hand_over(stage, wiper)
        boot = self._boot(stage, wiper, (device, subvolume), hand_over)
        if stage.dry_run:
            wiper.wipe(boot)
            return "not done: dry run"
        # What a wipe has done must be known to the rest of the boot.
        stage.reserve(WIPED)
        outcome = wiper.wipe(boot)
        stage.fresh.add(self.target)
        for line in outcome.problems:
            stage.report.problem(line)
        self._settle(stage, hand_over)
        facts = self._facts(outcome, device)
        stage.report.set(f"wiped {self.target}", facts)
        self._record(stage, facts)
        if wiper.MOUNTS_ROOT:
            self._keep_mounted(stage)
        return f"retired {outcome.retired}" if outcome.retired else "fresh"

    def fall_back(self, stage: Stage, reason: str) -> None:
        """Mount a root with a layer in memory, since nothing could be made fresh for *reason*.

        Raises ``EphemerootError`` or ``OSError``.
        """
        wiper = self.load()
        what = self._what(stage) if wiper.ON_DEVICE else ("", None)
        boot = self._boot(stage, wiper, what, self._hand_over(stage, wiper))
        stage.reserve(WIPED)
        outcome = wiper.fall_back(boot)
        stage.fresh.add(self.target)
        facts = self._facts(outcome, what[0]) | {
            FALLBACK: reason,
            "handed-over": self.target in stage.handed,
        }
        stage.report.set(f"wiped {self.target}", facts)
        self._record(stage, facts)
        self._keep_mounted(stage)

    def _boot(
        self, stage: Stage, wiper: Wiper, what: tuple[str, str | None], hand_over: HandOver
    ) -> Boot:
        from ephemeroot.wipers.boot import Boot

        boot = Boot(
            device=what[0],
            subvolume=what[1],
            target=self.target,
            private=stage.private("wiper"),
            shared=stage.shared,
            boot_id=stage.boot_id,
            now=time.time(),
            synchronised=clock.is_synchronised(),
            prove=lambda path: self._prove(stage, path),
            log=stage.report.log,
            # A root without a complete boot holds nothing that the administrator ever saw.
            previous=lambda path, complete: (
                complete
                and hand_over.run(
                    path, boot.handed, boots=boot.handed_boots, layers=boot.handed_layers
                )
            ),
            dry_run=stage.dry_run,
            handed_over=hand_over.describe,
            request=stage.old_root if self.target == "/" else None,
            root=stage.cmdline.get("root"),
            root_flags=stage.cmdline.root_flags(),
            mount_point=stage.target,
            mount_points=[o.mount_point for o in stage.plan.attached()],
            system=stage.plan.system,
            booted=booted.read(stage) if wiper.LAYERED else (),
            volumes={o.mount_point: stage.volume(o.name) for o in stage.plan.volumes()},
        )
        return boot

    def _facts(self, outcome: Outcome, device: str) -> dict[str, object]:
        return {
            "target": self.target,
            "device": device,
            "wiper": self.wiper,
            "attribute": self.attribute,
            "settings": self.settings,
            "fresh": outcome.fresh,
            "retired": outcome.retired,
            "pruned": outcome.pruned,
            "kept": outcome.kept,
            "recovered": outcome.recovered,
        }

    def _keep_mounted(self, stage: Stage) -> None:
        try:
            remount.prevent(stage)
        except OSError as error:
            stage.report.problem(
                "cannot disable systemd-remount-fs.service, which would remount the new root: "
                f"{error.strerror}",
                "run 'systemctl mask systemd-remount-fs.service' in the installed system",
            )

    def _record(self, stage: Stage, facts: dict[str, object]) -> None:
        """Leave the facts for the rest of the boot. The root is fresh, whatever fails now."""
        record = stage.recall(WIPED) or {"boot-id": stage.boot_id}
        record[self.target] = facts
        try:
            stage.remember(WIPED, record)
        except OSError as error:
            stage.report.problem(
                f"{self.target} was made fresh, but this cannot be recorded in {stage.run}: "
                f"{error.strerror}",
                "the persistence stage cannot verify the mounted root, and it will not be marked "
                "as boot-complete",
            )

    def _prove(self, stage: Stage, path: str) -> None:
        if self.target == "/":
            proofs.require_bootable(stage, path)

    def _hand_over(self, stage: Stage, wiper: Wiper) -> HandOver:
        from ephemeroot.hooks.operations.handover import HandOver

        targets = {o.target for o in stage.plan.wipes()}
        return HandOver(stage, self.target, targets, marks_kept=wiper.marks_kept)

    def _settle(self, stage: Stage, hand_over: HandOver) -> None:
        """The root is fresh by now: whatever fails is a problem, and the next boot's."""
        try:
            hand_over.settle()
        except (EphemerootError, OSError) as error:
            stage.report.problem(f"cannot record which old root was kept: {error}")

    def _no_device(self, stage: Stage, wiper: Wiper) -> tuple[str, None]:
        """The wiper knows by itself what it makes fresh; only root= must not be another."""
        reason = type(wiper).mismatch(self.settings, stage.cmdline.get("root"))
        if self.target == "/" and reason:
            raise Refused(
                f"the kernel command line boots root={stage.cmdline.get('root')}: {reason}",
                "correct root= in the boot loader's configuration, or the wiper's table",
            )
        return "", None

    def _what(self, stage: Stage) -> tuple[str, str | None]:
        """Device path and subvolume: the plan's, else the command line's. That both name the same
        root has been proven (``ownership.require_same``).
        """
        if self.target != "/":
            if self.device is None:
                raise Damaged(f"the wipe of {self.target} does not name a device")
            return ownership.device(stage, self.device, bootable=True), self.subvolume
        asked = ownership.booted_device(stage.cmdline)
        spec = self.device or asked
        if spec is None:
            raise Refused(
                "neither the configuration nor root= on the kernel command line names a device",
                "append root=DEVICE to the kernel command line, or set device in the wiper's table",
            )
        # The device on the kernel command line may exist anyway.
        path = ownership.device(stage, spec, bootable=spec != asked and _is_there(asked))
        known = self.identity.get("subvolume", self.subvolume)
        return path, stage.cmdline.root_subvolume() if known is None else str(known)


def _is_there(spec: str | None) -> bool:
    try:
        return spec is not None and os.path.exists(devices.link(spec))
    except ValueError:
        return False
