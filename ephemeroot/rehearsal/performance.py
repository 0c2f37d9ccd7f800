"""The rehearsed boot itself: the wipe stage, the mount that the distribution makes, persistence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import persist, wiping
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.copies import Copy
from ephemeroot.hooks.directories import Directory
from ephemeroot.hooks.files import File
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.hooks.wipe import Wipe
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.rehearsal import scene as scenes
from ephemeroot.rehearsal.scene import Scene
from ephemeroot.rehearsal.throwaway import Throwaway
from ephemeroot.wipers.btrfs import Btrfs
from ephemeroot.wipers.contract import Boot
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.tmpfs import Tmpfs

_OVERLAY = "ephemeroot.rehearsal.performance:RehearsedOverlay"


class RehearsedOverlay(Overlay):
    """The overlay wiper over the root as it is mounted: its device cannot be mounted read-only
    a second time while it is written to.
    """

    __slots__ = ()

    root = "/"

    def lower(self, boot: Boot) -> int:
        return mounts.clone_at(self.root, read_only=True)


@dataclass(slots=True)
class Performance:
    """One rehearsal of *plan* on the machine whose root is at ``root``.

    ``line`` is the kernel command line of the boot that is rehearsed. ``oversized`` are paths
    that the boot would share with the root, which the layer in memory cannot: they stay empty.
    """

    scene: Scene
    plan: Plan
    line: str
    device: str | None
    subvolume: str | None
    throwaway: Throwaway | None
    oversized: frozenset[str] = frozenset()
    reports: list[Report] = field(default_factory=list)

    def run(self) -> None:
        """Both stages. Raises what they raise; the fresh root is mounted at ``scene.target``."""
        volumes = self.scene.volumes(self.plan)
        wiped = [self._wipe(wipe) for wipe in self._wipes()]
        plan = Plan(
            wipe=[*volumes, *wiped],
            persist=[self._persisted(o) for o in self.plan.persist],
            on_failure={"path": "continue"},
            generation=scenes.GENERATION,
            host=self.plan.host,
            seed_limit=self.plan.seed_limit,
        )
        line = CommandLine(self._command_line(plan))
        with self._stage("wipe", plan, line) as stage:
            wiping.run(stage)
        self._mount_root(plan, line)
        with self._stage("persist", plan, line) as stage:
            persist.run(stage)

    def _wipes(self) -> list[Wipe]:
        """The root's. Volumes that are made fresh take part as they are, in a layer."""
        wipes = self.plan.wipes()
        for wipe in wipes:
            if wipe.target != "/":
                self.scene.notes.append(f"{wipe.target} is made fresh at boot, and not here")
        return [wipe for wipe in wipes if wipe.target == "/"]

    def _wipe(self, wipe: Wipe) -> Wipe:
        wiper = wipe.load()
        settings = dict(wipe.settings)
        if isinstance(wiper, Btrfs) and self.throwaway is not None:
            return self._rotation(wipe, settings)
        if type(wiper) is Tmpfs:
            return wipe
        if type(wiper) is Overlay:
            if settings.get("volume"):
                self.scene.notes.append("the layer is in memory, and the old layers are not tried")
            settings["volume"] = None
            RehearsedOverlay.root = str(self.scene.root)
            return self._changed(wipe, settings, attribute=_OVERLAY, device=self.device)
        raise scenes.refuse(wipe.wiper)

    def _rotation(self, wipe: Wipe, settings: dict[str, object]) -> Wipe:
        """All that the wiper is told lies in the throw-away directory."""
        assert self.throwaway is not None
        root = self.throwaway.snapshot(self.subvolume or "", "root")
        base = settings.get("base")
        if isinstance(base, str) and base:
            settings["base"] = self.throwaway.snapshot(base.strip("/"), "base")
        settings["old-roots"] = f"{self.throwaway.name}/old_roots"
        if "old-bases" in settings:
            settings["old-bases"] = f"{self.throwaway.name}/old_bases"
        settings["min-free"] = None
        return self._changed(wipe, settings, device=self.device, subvolume=root)

    @staticmethod
    def _changed(wipe: Wipe, settings: dict[str, object], **values: object) -> Wipe:
        given = {
            "target": wipe.target,
            "wiper": wipe.wiper,
            "attribute": wipe.attribute,
            "device": wipe.device,
            "subvolume": wipe.subvolume,
        }
        return Wipe(**{**given, **values}, settings=settings)

    def _persisted(self, operation: Operation) -> Operation:
        if isinstance(operation, Directory | File | Copy) and operation.path in self.oversized:
            values = {name: getattr(operation, name) for name, _, _ in operation.FIELDS}
            return type(operation)(**{**values, "initial": "empty"})
        return operation

    def _command_line(self, plan: Plan) -> str:
        """The real one, but for what names the root, and what is asked of one boot alone."""
        ours = ("root=", "rootflags=", "ephemeroot", "subvol=")
        words = [word for word in self.line.split() if not word.startswith(ours)]
        wipe = plan.root_wipe()
        if wipe is not None:
            if not wipe.load().ON_DEVICE:
                return " ".join([*words, "root=tmpfs"])
            words.append(f"root={self.device}")
            if wipe.subvolume:
                words.append(f"rootflags=subvol={wipe.subvolume}")
        return " ".join(words)

    @contextmanager
    def _stage(self, name: str, plan: Plan, line: CommandLine) -> Iterator[Stage]:
        report = Report(name, str(self.scene.run / "boot.json"), "rehearsal", boot=False)
        self.reports.append(report)
        stage = Stage(
            plan,
            line,
            report,
            target=str(self.scene.target),
            run=str(self.scene.run),
            boot_id="rehearsal",
        )
        try:
            stage.lock()
            yield stage
        finally:
            stage.close()

    def _mount_root(self, plan: Plan, line: CommandLine) -> None:
        """What the distribution does between the stages."""
        if mountinfo.mounted_at(str(self.scene.target)) is not None:
            return  # the wiper has
        wipe = plan.root_wipe()
        if wipe is None:
            raise EphemerootError("the configuration makes no root fresh: nothing to rehearse")
        mount = mounts.create("btrfs", str(self.device), [f"subvol={wipe.subvolume}"])
        if not line.has("rw"):
            mounts.set_flags(mount, set_=mounts.MOUNT_ATTR_RDONLY, name="the fresh root")
        mounts.attach_at(mount, str(self.scene.target))
