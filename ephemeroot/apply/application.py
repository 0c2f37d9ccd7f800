"""The application of a configuration: the checks, the changes and the steps of ``apply``."""

from __future__ import annotations

import dataclasses
import difflib
import uuid
from functools import partial
from pathlib import Path

from ephemeroot import amounts, terminal
from ephemeroot.base import equivalence, missing_bases
from ephemeroot.config import Configuration, Examination, Machine, examine, sources, volumes
from ephemeroot.errors import Damaged, EphemerootError, Misconfigured, Refused
from ephemeroot.execution import Action
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.generators import installed
from ephemeroot.image.steps import Rebuilding
from ephemeroot.init import boot_loader
from ephemeroot.linux import paths
from ephemeroot.plan import applied, foreign, identity, mounted, seeds, stores
from ephemeroot.plan.compile import Compilation, compile_examination
from ephemeroot.step import Step


class Application:
    """The application of one configuration to the machine below *root*.

    Raises ``InvalidConfiguration`` for errors in it, and ``Refused`` if a check fails, for example
    if a store is not mounted; has written nothing in either case.
    """

    def __init__(self, root: Path, config: Configuration, machine: Machine) -> None:
        self.root = root
        self.config = config
        self.stores = {store.path: root / store.path.lstrip("/") for store in config.stores}
        self.old = self._applied()
        self.machine = dataclasses.replace(machine, system=self._system(machine))
        self.examination: Examination = examine(config, self.machine)
        self.compilation: Compilation = compile_examination(self.examination)
        self._require_this_root()
        for missing in missing_bases.look(str(root), self.compilation.plan):
            raise Refused(missing.line, missing_bases.HINT)
        if config.wiping is not None and not config.external_boot:
            for found in boot_loader.findings(self.machine):
                raise Refused(
                    found.text,
                    f"{found.hint}; or set external-boot = true in [root] if this machine boots "
                    "from elsewhere",
                )
        if not config.stores:
            raise Misconfigured(
                "the configuration declares no store, so no file would survive a boot",
                "declare a store, for example [persistence.\"/persistent\"]; 'ephemeroot init' "
                "proposes one",
            )
        self.booted = applied.booted() if root == Path("/") else None
        followed = self.booted or self.old
        before = followed.declared() if followed is not None else {}
        self.seeds = seeds.foresee(self.compilation.plan, root, before)
        self.generation = self._generation()
        self.plan = b""

    def _system(self, machine: Machine) -> str:
        """The id of this system: that of the applied plan, which the stores have too after a
        reinstallation; a new id for another root, such as a copy of this one.
        """
        wiping = self.config.wiping
        known = identity.of_root(wiping, machine) if wiping is not None else {}
        plans = [self.old, *(stores.plan(path) for path in self.stores.values())]
        for plan in plans:
            if plan is None or not plan.system:
                continue
            wipe = plan.root_wipe()
            before = wipe.identity if wipe is not None else {}
            if all(known.get(key, value) == value for key, value in before.items()):
                return plan.system
        return uuid.uuid4().hex

    def _require_this_root(self) -> None:
        """Raise ``Refused`` in a boot of another root than the plan's, unless the configuration
        names this root: a plan for it would end the wipes of the other.
        """
        found = foreign.of_boot(self.root)
        if found is None or found.kind == ownership.FILESYSTEM:
            return
        wiping = self.config.wiping
        named = wiping is not None and (wiping.subvolume or wiping.settings.get("dataset"))
        if found.kind == ownership.ROOT and named and self._is_mounted():
            return
        raise Refused(
            f"cannot apply: this boot has another root: {found.message}",
            "boot the ephemeral root, and run 'ephemeroot apply' there; to make this root "
            "ephemeral instead, name it in the wiper's table (subvolume, dataset)",
        )

    def _is_mounted(self) -> bool:
        """Whether the root of the new plan is the mounted one."""
        wipe = self.compilation.plan.root_wipe()
        if wipe is None:
            return False
        found = wipe.load().identify_mounted(str(self.root))
        return all(wipe.identity.get(key) == value for key, value in found.items())

    def _applied(self) -> Plan | None:
        try:
            return applied.load(self.root)
        except Damaged as error:
            terminal.warning(f"{error.message}; the plan is replaced")
            return None

    def _generation(self) -> int:
        """The generation of the applied plan if the new plan is the same, else a new one."""
        newest = max(self._recorded(path) for path in self.stores.values())
        if self.old is None:
            return newest + 1
        if self.is_applied() and self.old.generation >= newest:
            return self.old.generation
        return max(newest, self.old.generation) + 1

    def _recorded(self, store: Path) -> int:
        """The newest generation in the records of *store*. A damaged record is replaced with the
        generation of the applied plan, if there is one.
        """
        try:
            return stores.generation(store)
        except Damaged as error:
            if self.old is None:
                raise
            terminal.warning(f"{error.message}; the record is replaced")
            return self.old.generation

    def is_applied(self) -> bool:
        """Whether the applied plan is the same as the new one."""
        return self.old is not None and applied.are_equivalent(self.old, self.compilation.plan)

    @property
    def since(self) -> str:
        """The plan that ``changes`` compares with: that of this boot if it is known, else the
        applied one.
        """
        if self.booted is not None:
            return f"generation {self.booted.generation}, which this machine booted with"
        return f"generation {self.old.generation}" if self.old else "nothing applied"

    def forgotten(self) -> list[tuple[str, str]]:
        """Paths that are no longer persistent, each with its store."""
        followed = self.booted or self.old
        before = followed.declared() if followed is not None else {}
        after = self.compilation.plan.declared()
        return [(path, before[path]) for path in before if path not in after]

    def require_seeds(self) -> None:
        """Raise ``Refused`` if the next boot cannot seed a newly declared path."""
        refused = [seed for seed in self.seeds if seed.refusal]
        if refused:
            raise Refused(
                "the next boot cannot seed newly declared paths: "
                + amounts.listed([seed.describe() for seed in refused], separator="; "),
                f'run: {seeds.adopt_line(refused)} (or declare it with initial = "empty")',
            )

    def changes(self) -> list[str]:
        """Lines ``+ …`` and ``- …``: the new plan compared with that of this boot."""
        before, after = _lines(self.booted or self.old), _lines(self.compilation.plan)
        changed = [
            f"{line[0]} {line[2:]}"
            for line in difflib.ndiff(before, after)
            if line.startswith(("+ ", "- "))
        ]
        if not changed and not self.is_applied():
            changed = ["+ settings that 'ephemeroot plan' does not list"]
        return changed

    def steps(self, *, images: bool) -> list[Step]:
        """All steps in order. The plan and the records are on the disk before the first image is
        built.
        """
        steps: list[Step] = [self._mark(path) for path in self.compilation.unmarked]
        steps.append(Action(f"write the plan to {sources.PLAN}", self._write_plan))
        first = next(iter(self.stores))
        if not stores.keeps_configuration(self.stores[first], self.root):
            steps.append(
                Action(
                    f"copy /etc/ephemeroot into {first}", partial(self._copy_configuration, first)
                )
            )
        for path in self.stores:
            line = f"record generation {self.generation} in {path}"
            steps.append(Action(line, partial(self._record, path)))
        steps += equivalence.steps(self.examination)
        if images:
            return steps + self._images()
        for omission in installed.omissions(self.root):
            terminal.warning(f"{omission.place}: {omission.reason}", omission.hint)
        return steps

    def _mark(self, path: str) -> Action:
        volume = volumes.covering(path, self.examination.volumes)
        if volume is not None:
            mounted.require(volume, str(self.root))

        def mark() -> str:
            self.stores[path].mkdir(parents=True, exist_ok=True)
            return f"id {stores.write_marker(self.stores[path], path)}"

        return Action(f"make {path} a store (write its marker)", mark)

    def _write_plan(self) -> str:
        # The stores' ids are known only now.
        machine = dataclasses.replace(self.machine, generation=self.generation)
        compilation = compile_examination(examine(self.config, machine))
        if compilation.unmarked:
            raise EphemerootError(
                f"the marker of the store {compilation.unmarked[0]} has disappeared",
                "run the command again",
            )
        self.plan = compilation.plan.dump()
        target = applied.path(self.root)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        paths.write_atomically(str(target), self.plan, self.compilation.plan.mode)
        return f"generation {self.generation}"

    def _copy_configuration(self, store: str) -> str:
        aside = stores.copy_configuration(self.stores[store], self.root)
        return f"copied; the store had another version, kept as {aside}" if aside else "copied"

    def _record(self, store: str) -> str:
        stores.record(self.stores[store], self.plan, self.generation)
        return "recorded"

    def _images(self) -> list[Step]:
        for omission in installed.omissions(self.root):
            raise Misconfigured(f"{omission.place}: {omission.reason}", omission.hint)
        names = installed.names()
        if self.root != Path("/"):
            generator = installed.on(str(self.root)) or installed.recommended()
            raise Misconfigured(
                "cannot build images with --root, only on the machine itself",
                f"add --no-images, and run {generator.NAME} in that root",
            )
        generators = installed.set_up()
        if not generators:
            setups = " or ".join(f"'ephemeroot setup {name}'" for name in names)
            raise Misconfigured(
                f"no installed initramfs generator ({', '.join(names)}) has the ephemeroot module",
                f"install one of them and ephemeroot's package for it, or run {setups}",
            )
        steps: list[Step] = []
        for generator in generators:
            found, unknown = generator.images(self.root)
            _warn_of(unknown)
            steps += [Rebuilding(image, lambda: self.plan) for image in found]
        if not steps:
            raise Misconfigured(
                "no initramfs image of an installed kernel exists",
                f"build one with {' or '.join(g.NAME for g in generators)} first, or add "
                "--no-images",
            )
        return steps


def _warn_of(unknown: list[str]) -> None:
    for line in unknown:
        terminal.warning(line, "apply does not rebuild it; rebuild it by hand to give it the plan")


def _lines(plan: Plan | None) -> list[str]:
    """The lines of a plan for a comparison."""
    if plan is None:
        return []
    lines = [f"before the root is mounted: {o.describe()}" for o in plan.wipe]
    lines += [f"under the new root: {o.describe()}" for o in plan.persist]
    lines += [f"on failure of {kind}: {policy}" for kind, policy in plan.on_failure.items()]
    return lines
