"""Warnings: labels that differ from the SELinux policy, and relabellings that no boot completes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from ephemeroot import amounts
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.machine import files
from ephemeroot.machine.facts import Machine
from ephemeroot.machine.labelling import Labelling

MARKER = ".autorelabel"
"""In a root: the boot relabels all files, removes it and restarts (selinux-autorelabel(8))."""


def advise(
    config: Configuration,
    machine: Machine,
    base: int | None,
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Add warnings to *problems* about a *machine* with a policy; *base* is the open base of the
    root, if it has one.
    """
    if machine.another:
        return
    if config.wiping is not None and config.complete:
        _look_for_markers(config, machine, base, config.wiping.origin.place, problems)
    for store in config.stores:
        of_store = [entry for entry in declared if entry.store == store.path]
        _compare(store.path, store.origin.place, machine, of_store, problems)


def _look_for_markers(
    config: Configuration, machine: Machine, base: int | None, place: Place, problems: list[Problem]
) -> None:
    def warn(reason: str, hint: str) -> None:
        problems.append(Problem.at(place, reason, hint, warning=True))

    stores = " ".join(shlex.quote(store.path) for store in config.stores)
    remedy = f"'restorecon -RF {stores}' relabels the {'stores' if ' ' in stores else 'store'}"
    relabel = "restorecon -RF /etc /usr /var && rm -f /.autorelabel"
    at_each_boot = "at each boot SELinux relabels all files and restarts"
    if base is not None:
        remedy = f"\"ephemeroot base run -- sh -c '{relabel}'\" relabels the base, and {remedy}"
        if files.exists_beneath(base, MARKER):
            warn(f"/{MARKER} is in the base: {at_each_boot}", remedy)
    top = os.open(machine.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if files.exists_beneath(top, MARKER):
            warn(
                f"/{MARKER} is in this root, which the next boot makes fresh: nothing is "
                "relabelled",
                f"remove it; {remedy}",
            )
    finally:
        os.close(top)
    for file, text in machine.command_lines:
        if any(word in ("autorelabel", "autorelabel=1") for word in text.split()):
            warn(
                f"autorelabel is on the kernel command line ({file}): {at_each_boot}",
                f"remove it; {remedy}",
            )


def _compare(
    store: str,
    place: Place,
    machine: Machine,
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Compare declared paths, and the directories above them, in the *store*."""
    try:
        top = os.open(files.show(machine.root, store), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        labelling = Labelling(machine.labels, top)
        names = {entry.path for entry in declared}
        names |= {parent for entry in declared for parent in clean.parents(entry.path)}
        found = labelling.different(name.strip("/") for name in sorted(names))
    finally:
        os.close(top)
    if found:
        shown = [f"{store}/{one.name} ({one.present}, not {one.wanted})" for one in found]
        where = [shlex.quote(f"{store}/{one.name}") for one in found]
        problems.append(
            Problem.at(
                place,
                "the label differs from the SELinux policy: " + amounts.listed(shown, 3),
                f"run 'restorecon -vF {' '.join(where)}'",
                warning=True,
            )
        )
