"""Declared paths compared with what the live root and the base have there: a path's type is part of
its value, and so is the way to it.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Sequence

from ephemeroot.config.declared import Declared
from ephemeroot.config.resolution import STATES, Roots
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Problem
from ephemeroot.machine.facts import Machine

_NAMES = {stat.S_IFDIR: "a directory", stat.S_IFREG: "a file", 0: "missing"}


def check(
    machine: Machine,
    roots: Roots,
    declared: Sequence[Declared],
    homes: Collection[str],
    problems: list[Problem],
) -> None:
    """Note each declared path that a root has as something else, and each that is at another place
    in the next boot's root. *homes* are users' homes, in which a file may be a directory.
    """
    if machine.another:
        return
    places = frozenset(homes)
    for entry in declared:
        problem = (
            _dynamic(roots, entry)
            or _elsewhere(roots, entry)
            or _wrong_type(roots, entry, places)
            or _a_link(roots, entry)
            or _in_the_way(roots, entry)
        )
        if problem is not None:
            problems.append(problem)


def _dynamic(roots: Roots, entry: Declared) -> Problem | None:
    """A directory that systemd moves to ``private`` when its service starts. One of a service that
    has run is a link to it, and needs no word.
    """
    if not entry.is_directory or not entry.declared.startswith(STATES):
        return None
    found = roots.dynamic.get(entry.declared)
    if found is None or roots.link(found.path, live=True):
        return None
    reason = f"{found.service} has DynamicUser=: systemd keeps {found.path} in {found.private}"
    hint = f'declare "{found.private}"'
    if entry.path == found.path:
        reason += ", and cannot move a bound directory there (EBUSY)"
    if roots.kind(found.path, live=True) == stat.S_IFDIR:
        hint = f"run 'systemctl restart {found.service}', which moves the directory, and {hint}"
    elif entry.path == found.path:
        hint = f"remove {found.path} from the base, and {hint}"
    return Problem.at(entry.place, reason, hint, warning=True)


def _elsewhere(roots: Roots, entry: Declared) -> Problem | None:
    """The live root and the base have different symbolic links on the way."""
    if entry.path == entry.live:
        return None
    reason = (
        f"{entry.declared} leads to {entry.path} in the base and to {entry.live} in the live root"
    )
    found = _difference(roots, entry.declared)
    if found:
        reason += f": {found}"
    # Seeding resolves the path again, in the outgoing root.
    seeded = roots.resolve(entry.path, follow_last=entry.is_directory, live=True) == entry.live
    lost = "" if seeded else f" and does not seed from {entry.live}"
    return Problem.at(
        entry.place,
        reason,
        f"the next boot uses {entry.path}{lost}; to change that, change the base with 'ephemeroot "
        "base run'",
        warning=True,
    )


def _difference(roots: Roots, path: str) -> str:
    """The first component of *path* that is not the same in both roots, in words."""
    for above in (*clean.parents(path), path):
        base, live = (_words(roots, above, live=one) for one in (False, True))
        if base != live:
            return f"{above} is {base} in the base and {live} in the live root"
    return ""


def _words(roots: Roots, path: str, *, live: bool) -> str:
    target = roots.link(path, live=live)
    if target:
        return f"a link to {target}"
    return _NAMES.get(roots.kind(path, live=live), "something else")


def _wrong_type(roots: Roots, entry: Declared, homes: frozenset[str]) -> Problem | None:
    if not entry.is_directory and not homes.isdisjoint(clean.ancestors(entry.path)):
        return None
    wrong = stat.S_IFREG if entry.is_directory else stat.S_IFDIR
    wanted, found = ("directory", "file") if entry.is_directory else ("file", "directory")
    for live, path, where in ((True, entry.live, ""), (False, entry.path, " in the base")):
        if roots.kind(path, live=live) == wrong:
            return Problem.at(
                entry.place,
                f"{path} is declared as a {wanted}, but it is a {found}{where}",
                f"declare it in {'files' if entry.is_directory else 'directories'}",
            )
    return None


def _a_link(roots: Roots, entry: Declared) -> Problem | None:
    """A link at the path of a declared file persists as a link only by ``copy``."""
    if entry.is_directory or entry.options.method == "copy":
        return None
    target = roots.link(entry.live, live=True) or roots.link(entry.path)
    if target in ("", entry.in_store):
        return None
    return Problem.at(
        entry.place,
        f"{entry.path} is a symbolic link to {target}, and a link cannot be bound over",
        'set method = "copy", which keeps a link as a link',
        warning=True,
    )


def _in_the_way(roots: Roots, entry: Declared) -> Problem | None:
    """A link does not replace what the next root has at its path."""
    kind = roots.kind(entry.path)
    if entry.options.method != "symlink" or kind not in (stat.S_IFDIR, stat.S_IFREG):
        return None
    what = "directory" if kind == stat.S_IFDIR else "file"
    which = "live root" if roots.base is None else "base"
    return Problem.at(
        entry.place,
        f"the {which} has a {what} at {entry.path}, and a link does not replace it",
        f'the boot binds it if the new root has it; set method = "bind", or remove the {what} '
        "from the base",
        warning=True,
    )
