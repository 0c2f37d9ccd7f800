"""Warnings about probable omissions of the administrator."""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Sequence

from ephemeroot import amounts
from ephemeroot.config import replaced, volumes
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, Volume, Wiping
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.linux import values
from ephemeroot.machine.facts import Machine

_TOGETHER = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")
"""A user has an entry in each of these files. With some of them from the store and others from the
base, a new user or a changed password is inconsistent after the boot.
"""

_ALWAYS = {
    "/etc/machine-id": "each boot has another machine id, for example for its journal and DHCP",
    "/var/log": "each boot loses the logs of the boot before",
}
_WITHOUT_BASE = {
    "/etc/passwd": "no user can log in",
    "/etc/shadow": "no user can log in",
    "/etc/group": "no group exists",
}


def advise(
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Add warnings to *problems*."""
    for entry in declared:
        _propose_copy(entry, machine, problems)
        _propose_copy_of_key(entry, machine, problems)
    _propose_equivalences(config, machine, problems)
    if config.wiping is None or not config.complete:
        return
    _keep_together(mounted, declared, problems)
    place = config.wiping.origin.place
    _compare_with_memory(config.wiping, machine, problems)
    if not config.stores:
        problems.append(
            Problem.at(
                place,
                "no store is declared: no file survives a boot, not even this configuration",
                'declare a store, for example [persistence."/persistent"]',
                warning=True,
            )
        )
        return
    wanted = dict(_ALWAYS)
    without_base = dict(_WITHOUT_BASE)
    without_base.update(
        dict.fromkeys(machine.host_keys, "its SSH clients will warn about a changed host key")
    )
    wanted |= {
        path: consequence
        for path, consequence in without_base.items()
        if volumes.begins_empty(path, mounted, config.wiping)
    }
    for path, consequence in wanted.items():
        if not _persists(path, mounted, declared):
            _miss(path, consequence, place, problems)


def _compare_with_memory(wiping: Wiping, machine: Machine, problems: list[Problem]) -> None:
    """A root in memory that is larger than the memory can exhaust it."""
    size = wiping.settings.get("size")
    if wiping.plugin is None or not wiping.plugin.wiper.EPHEMERAL or not machine.memory:
        return
    number = values.number(size) if isinstance(size, str) else None
    if number is not None and number > machine.memory:
        reason = (
            f"size is {amounts.size(number)}, but this machine has only "
            f"{amounts.size(machine.memory)} of memory"
        )
        hint = 'set a part of the memory, for example size = "50%"'
        problems.append(Problem.at(wiping.origin.of("size"), reason, hint, warning=True))


def _propose_equivalences(config: Configuration, machine: Machine, problems: list[Problem]) -> None:
    """Warn about missing equivalences in SELinux's policy: without them, a relabelling
    (``restorecon -R``, ``/.autorelabel``) labels /persistent/etc/shadow unlike /etc/shadow.
    """
    for store in config.stores:
        wanted = machine.labels.of_directory("/etc")
        if machine.labels.of_directory(f"{store.path}/etc") == wanted:
            continue
        problems.append(
            Problem.at(
                store.origin.place,
                f"the SELinux policy does not label the store {store.path} like the root: a "
                "relabelling would give its files wrong labels",
                "run 'ephemeroot apply', which runs 'semanage fcontext -a -e / "
                f"{shlex.quote(store.path)}' in the base",
                warning=True,
            )
        )


def _propose_copy(entry: Declared, machine: Machine, problems: list[Problem]) -> None:
    """Warn about a bound file that a program replaces by rename. ``presence`` reports links."""
    if entry.is_directory or entry.options.method not in ("auto", "bind"):
        return
    known = replaced.find(entry.path)
    if known is not None and known.checked and not os.path.islink(machine.show(entry.path)):
        problems.append(
            Problem.at(
                entry.place,
                f"{known.by} replaces {entry.path} by rename, which fails on a bound file",
                'set method = "copy"',
                warning=True,
            )
        )


def _propose_copy_of_key(entry: Declared, machine: Machine, problems: list[Problem]) -> None:
    """Warn about a missing host key: the method auto makes a link for it, which ``ssh-keygen -A``
    replaces by rename (openssh-portable, ssh-keygen.c, do_gen_all_hostkeys).
    """
    if not fnmatch.fnmatch(entry.path, "/etc/ssh/ssh_host_*_key*") or entry.is_directory:
        return
    wanted = entry.options.method == "symlink" or (
        entry.options.method == "auto" and not machine.host_keys
    )
    if wanted and not os.path.exists(machine.show(entry.in_store)):
        problems.append(
            Problem.at(
                entry.place,
                f"ssh-keygen -A replaces the link {entry.path} with a new key, which the next boot "
                "forgets",
                'set method = "copy"',
                warning=True,
            )
        )


def _keep_together(
    mounted: Sequence[Volume], declared: Sequence[Declared], problems: list[Problem]
) -> None:
    missing = [path for path in _TOGETHER if not _persists(path, mounted, declared)]
    for entry in declared:
        if entry.path in _TOGETHER and missing:
            entries = ", ".join(f'{{ file = "{path}", method = "copy" }}' for path in missing)
            problems.append(
                Problem.at(
                    entry.place,
                    f"{entry.path} persists, but {' and '.join(missing)} of the same users "
                    f"{'does' if len(missing) == 1 else 'do'} not",
                    f"declare {entries}",
                    warning=True,
                )
            )
            return


def _persists(path: str, mounted: Sequence[Volume], declared: Sequence[Declared]) -> bool:
    volume = volumes.covering(path, mounted)
    if volume is not None and volume.persists:
        return True
    return any(clean.is_below(path, entry.path) for entry in declared)


def _miss(path: str, consequence: str, place: Place, problems: list[Problem]) -> None:
    copied = path in _WITHOUT_BASE and replaced.method(path)
    entry = f'{{ file = "{path}", method = "copy" }}' if copied else f'"{path}"'
    reason = f"{path} does not persist: {consequence}"
    problems.append(Problem.at(place, reason, f"declare {entry}", warning=True))
