"""Declared paths compared with the live root and the base: their types, and the symbolic links in
them.
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
    """Note each declared path that has another type in a root, and each that leads to another place
    in the next root. *homes* are users' homes, in which a declared file may be a directory.
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
    """A warning for a directory that systemd moves to ``private`` when its service starts. After
    the first start it is a link, which is fine.
    """
    if not entry.is_directory or not entry.declared.startswith(STATES):
        return None
    found = roots.dynamic.get(entry.declared)
    if found is None or roots.link(found.path, live=True):
        return None
    reason = f"{found.service} has DynamicUser=: systemd moves {found.path} to {found.private}"
    hint = f'declare "{found.private}"'
    if entry.path == found.path:
        reason += ", and cannot move a bound directory (EBUSY)"
    if roots.kind(found.path, live=True) == stat.S_IFDIR:
        hint = f"run 'systemctl restart {found.service}' to move the directory, and {hint}"
    elif entry.path == found.path:
        hint = f"remove {found.path} from the base, and {hint}"
    return Problem.at(entry.place, reason, hint, warning=True)


def _elsewhere(roots: Roots, entry: Declared) -> Problem | None:
    """A warning if symbolic links in the path differ between the live root and the base."""
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
        f"the next boot uses {entry.path}{lost}; run 'ephemeroot base run' to change the link in "
        "the base",
        warning=True,
    )


def _difference(roots: Roots, path: str) -> str:
    """The first component of *path* that differs between the roots, in words."""
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
                f"{path} is declared as a {wanted}, but is a {found}{where}",
                f"declare it in {'files' if entry.is_directory else 'directories'}",
            )
    return None


def _a_link(roots: Roots, entry: Declared) -> Problem | None:
    """A warning for a symbolic link: it persists only with the method ``copy``."""
    if entry.is_directory or entry.options.method == "copy":
        return None
    target = roots.link(entry.live, live=True) or roots.link(entry.path)
    if target in ("", entry.in_store):
        return None
    return Problem.at(
        entry.place,
        f"{entry.path} is a symbolic link to {target}, which cannot be bound",
        'set method = "copy" to keep it as a link',
        warning=True,
    )


def _in_the_way(roots: Roots, entry: Declared) -> Problem | None:
    """A warning for a file or directory of the next root that a link would not replace."""
    kind = roots.kind(entry.path)
    if entry.options.method != "symlink" or kind not in (stat.S_IFDIR, stat.S_IFREG):
        return None
    what = "directory" if kind == stat.S_IFDIR else "file"
    which = "live root" if roots.base is None else "base"
    return Problem.at(
        entry.place,
        f"cannot link {entry.path}: the {which} has a {what} there, so the boot binds it instead",
        f'set method = "bind", or remove the {what} from the base',
        warning=True,
    )
