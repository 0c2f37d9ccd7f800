"""What on the present root is not lost at the next boot: the plan knows, and the mounts."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo


def elsewhere(plan: Plan, declared: Iterable[str], live: str, target: str = "/") -> set[str]:
    """The paths in *target*, which is mounted at *live*, whose content is on another filesystem:
    the *declared* ones, and mount points. As seen from *target*, ``/x``.
    """
    found = set(declared)
    found |= {volume.mount_point for volume in plan.attached()}
    found |= {wipe.target for wipe in plan.wipes()}
    inside = {below(path, target) for path in found}
    return {path for path in inside if path is not None and path != "/"} | mount_points(live)


def mount_points(live: str) -> set[str]:
    """The mount points below the directory *live*, as seen from it."""
    top = os.path.realpath(live)
    inside = {below(mount.point, top) for mount in mountinfo.mounts()}
    return {path for path in inside if path is not None and path != "/"}


def below(path: str, top: str) -> str | None:
    """*path* as seen from *top* (``/`` for that itself), or ``None`` if it is not below."""
    if top == "/" or path == top:
        return path if path != top else "/"
    return path[len(top) :] if path.startswith(top + "/") else None


def covering(path: str, places: dict[str, str]) -> tuple[str, str] | None:
    """The innermost of *places* that is *path* or above it, with its store; else ``None``."""
    while True:
        if path in places:
            return path, places[path]
        if path == "/":
            return None
        path = os.path.dirname(path)
