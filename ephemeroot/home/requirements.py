"""The requirements of a user's configuration on this machine, and conflicts with the system's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ephemeroot.config import reader
from ephemeroot.config.declared import Declared
from ephemeroot.config.resolver import Resolver
from ephemeroot.config.sources import MAIN
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Problem, ordered
from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.home import fuse
from ephemeroot.home.bindfs import Bindfs
from ephemeroot.home.model import Entry, HomeConfiguration
from ephemeroot.home.observation import Condition, Finding
from ephemeroot.home.user import User
from ephemeroot.home.view import real
from ephemeroot.machine.facts import Machine


def examine(
    user: User, configuration: HomeConfiguration, findings: Sequence[Finding]
) -> list[Problem]:
    """Every mistake in the configuration and every obstacle on this machine, by line. *findings*
    are the states of its entries. Changes nothing.
    """
    problems = list(configuration.problems)
    if not problems and not configuration.entries:
        problems.append(Problem(configuration.file, "", "nothing is declared", warning=True))
    problems += _programs(configuration)
    problems += _obstacles(configuration, findings)
    problems += _system(user, configuration)
    return ordered(problems)


def _programs(configuration: HomeConfiguration) -> Iterable[Problem]:
    mounted = [entry for entry in configuration.entries if entry.is_mounted]
    if not mounted:
        return
    first = min((entry.place for entry in mounted), key=lambda place: place.line or 0)
    if missing := fuse.unusable() or _bindfs():
        yield Problem.at(first, missing.message, missing.hint)
    for store in configuration.stores:
        if any(entry.allow_other for entry in mounted if entry.store == store.path):
            if forbidden := fuse.others_forbidden():
                yield Problem.at(store.allow_other_place, forbidden.message, forbidden.hint)


def _bindfs() -> EphemerootError | None:
    try:
        Bindfs.find()
    except EphemerootError as error:
        return error
    return None


def _obstacles(configuration: HomeConfiguration, findings: Sequence[Finding]) -> Iterable[Problem]:
    """The obstacles for ``apply``; a missing store is reported once, not for each entry."""
    used = {finding.entry.store for finding in findings}
    missing = [s for s in configuration.stores if s.path in used and not os.path.isdir(s.path)]
    for store in missing:
        reason = f"the store {store.path} does not exist"
        yield Problem.at(store.place, reason, f"mount its volume, or run 'mkdir -p {store.path}'")
    for finding in findings:
        entry = finding.entry
        if finding.condition is Condition.IN_THE_WAY:
            reason = f"{entry.target} is in the way: {finding.reason}"
            yield Problem.at(entry.place, reason, finding.hint, warning=True)
        elif finding.is_blocked and entry.store not in [store.path for store in missing]:
            yield Problem.at(entry.place, finding.reason, finding.hint)


def _system(user: User, configuration: HomeConfiguration) -> Iterable[Problem]:
    """Entries that the system's configuration persists as well."""
    try:
        declared = _declared_by_system()
    except (EphemerootError, OSError) as error:
        reason = f"cannot read the system's configuration {MAIN}: {error}"
        hint = "without it, paths that the system persists as well are not detected"
        yield Problem(configuration.file, "", reason, hint, warning=True)
        return
    for entry in configuration.entries:
        for other in declared:
            if reason := _overlap(user, entry, other):
                hint = f"remove the entry; see {other.place}"
                yield Problem.at(entry.place, reason, hint, warning=True)
                break


def _declared_by_system() -> list[Declared]:
    machine = Machine.of()
    try:
        configuration = reader.read(machine)
    except Misconfigured:  # the system has no configuration
        return []
    if not configuration.complete:
        unread = next(problem for problem in configuration.problems if not problem.warning)
        raise EphemerootError(unread.reason, unread.hint)
    # Other mistakes in it concern the administrator, not the user.
    resolver = Resolver(configuration, machine, [])
    resolver.resolve()
    return resolver.declared


def _overlap(user: User, entry: Entry, other: Declared) -> str:
    path, target = real(other.path), user.short(entry.target)
    if path == entry.target:
        return f"the system already persists {target}, in {other.store}"
    if clean.is_below(entry.target, path):
        return f"{target} is in {user.short(path)}, which the system persists in {other.store}"
    if clean.is_below(path, entry.target):
        return (
            f"{target} contains {user.short(path)}, which the system persists in {other.store}: "
            "it would be covered"
        )
    return ""
