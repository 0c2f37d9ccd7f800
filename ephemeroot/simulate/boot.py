"""The simulated boot: wipe stage, the distribution's mount of the root, persistence stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ephemeroot.backends.contract import Rehearsal
from ephemeroot.hooks import persist
from ephemeroot.hooks import wipe as wipe_stage
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operation import Operation, Seeded
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.simulate import environment as environments
from ephemeroot.simulate.environment import Environment


@dataclass(slots=True)
class SimulatedBoot:
    """One simulated boot of *plan* on the machine whose root is at ``root``.

    ``line`` is the kernel command line of the simulated boot. ``oversized`` are paths whose extents
    a real boot would share with the root. The layer in memory cannot share them: they stay empty.
    """

    environment: Environment
    plan: Plan
    line: str
    rehearsal: Rehearsal
    oversized: frozenset[str] = frozenset()
    reports: list[Report] = field(default_factory=list)

    def run(self) -> None:
        """Run both stages. Raises their errors; the new root is at ``environment.target``."""
        volumes = self.environment.volumes(self.plan)
        self._note_volumes()
        wipe = self.rehearsal.prepare(str(self.environment.private))
        plan = Plan(
            wipe=[*volumes, wipe],
            persist=[self._persisted(o) for o in self.plan.persist],
            on_failure={"path": "continue"},
            generation=environments.GENERATION,
            host=self.plan.host,
            seed_limit=self.plan.seed_limit,
        )
        line = CommandLine(self._command_line(wipe))
        with self._stage("wipe", plan, line) as stage:
            wipe_stage.run(stage)
        self._mount_root(wipe, line)
        with self._stage("persist", plan, line) as stage:
            persist.run(stage)

    def _note_volumes(self) -> None:
        """Wiped volumes are not wiped here: they have their present content, under a layer."""
        for wipe in self.plan.wipes():
            if wipe.target != "/":
                self.environment.notes.append(
                    f"{wipe.target} is not made fresh in the simulation, unlike in a boot"
                )

    def _persisted(self, operation: Operation) -> Operation:
        if isinstance(operation, Seeded) and operation.path in self.oversized:
            return operation.changed(initial="empty")
        return operation

    def _command_line(self, wipe: Wipe) -> str:
        """The real command line, except for words that name the root or concern one boot only."""
        ours = ("root=", "rootflags=", "ephemeroot", "subvol=")
        words = [word for word in self.line.split() if not word.startswith(ours)]
        return " ".join([*words, *self.rehearsal.words(wipe)])

    @contextmanager
    def _stage(self, name: str, plan: Plan, line: CommandLine) -> Iterator[Stage]:
        report = Report(name, str(self.environment.run / "boot.json"), "rehearsal", boot=False)
        self.reports.append(report)
        stage = Stage(
            plan,
            line,
            report,
            target=str(self.environment.target),
            run=str(self.environment.run),
            boot_id="rehearsal",
        )
        try:
            stage.lock()
            yield stage
        finally:
            stage.close()

    def _mount_root(self, wipe: Wipe, line: CommandLine) -> None:
        """Mount the root as the distribution does between the stages."""
        if mountinfo.mounted_at(str(self.environment.target)) is not None:
            return  # mounted by the wiper
        mount = self.rehearsal.mount(wipe)
        if not line.has("rw"):
            mounts.set_flags(mount, set_=mounts.MOUNT_ATTR_RDONLY, name="the fresh root")
        mounts.attach_at(mount, str(self.environment.target))
