"""The examination of a configuration on a machine: all look-ups, and all problems."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.config import base_tree, network, repeated, volumes
from ephemeroot.config.checks import access, advice, covered, layered, presence, stacking
from ephemeroot.config.checks.claims import Claims
from ephemeroot.config.checks.refusals import Refusals
from ephemeroot.config.declared import Declared, Home
from ephemeroot.config.model import Configuration, Volume
from ephemeroot.config.resolution import Roots
from ephemeroot.config.resolver import Resolver
from ephemeroot.config.syntax.problem import Problem, ordered
from ephemeroot.machine.facts import Machine


@dataclass(frozen=True, slots=True)
class Examination:
    """The result of ``examine``. ``volumes`` are ordered by path, parents first, ``declared`` as in
    the configuration, ``problems`` by file and line; they include those of the reading.
    """

    config: Configuration
    machine: Machine
    volumes: tuple[Volume, ...]
    declared: tuple[Declared, ...]
    homes: tuple[Home, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems with which no plan can be made."""
        return [problem for problem in self.problems if not problem.warning]


def examine(config: Configuration, machine: Machine) -> Examination:
    """Look up the configuration in *machine*, and note all problems. Raises nothing."""
    problems = list(config.problems)
    for source in machine.unread:
        reason = f"cannot read the file: {source.error}"
        problems.append(Problem(source.path, "", reason, source.hint))
    mounted = network.resolve(config, machine, volumes.resolve(config, machine, problems), problems)
    stores = [store.path for store in config.stores]
    with base_tree.opened(config, machine, mounted, problems) as base:
        kept = [volume.mount_point for volume in mounted if volume.needed_for_boot]
        roots = Roots(machine.root, base, stores, kept)
        resolver = Resolver(config, machine, problems, roots)
        resolver.resolve()
        resolver.declared = repeated.merge(resolver.declared, problems)
        Refusals(config, machine, mounted, resolver.declared, problems, roots).check()
        presence.check(machine, roots, resolver.declared, resolver.homes, problems)
        if machine.labels.are_known:
            # Most machines have no policy, and do not need the module.
            from ephemeroot.config.checks import relabelling

            relabelling.advise(config, machine, base, resolver.declared, problems)
    network.check_overlays(resolver.declared, mounted, problems)
    Claims(resolver.declared, stores, mounted, problems).check()
    access.check(machine, resolver.declared, list(resolver.homes.values()), problems)
    advice.advise(config, machine, mounted, resolver.declared, problems)
    covered.check(config, machine, mounted, resolver.declared, problems)
    stacking.check(config, machine, mounted, resolver.declared, problems)
    layered.advise(config, machine, mounted, resolver.declared, problems)
    return Examination(
        config,
        machine,
        tuple(mounted),
        tuple(resolver.declared),
        tuple(resolver.homes[path] for path in sorted(resolver.homes)),
        tuple(ordered(problems)),
    )
