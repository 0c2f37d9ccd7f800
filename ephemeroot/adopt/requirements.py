"""Requirements of an adoption: each function raises ``Refused`` if one does not hold."""

from __future__ import annotations

import os
from pathlib import Path

from ephemeroot.adopt import whiteouts
from ephemeroot.config import Examination, Machine, base_tree, volumes
from ephemeroot.config.resolution import Roots
from ephemeroot.errors import Refused
from ephemeroot.leave.returning import bare_root
from ephemeroot.linux import mountinfo, paths
from ephemeroot.plan import mounted, seeds


def require_own_directory(root: Path, path: str) -> None:
    """systemd replaces the directory of a dynamic user with a link, on which no bind mount works:
    see ``dynamic_users``.
    """
    dynamic = Roots(str(root)).dynamic.get(path)
    if dynamic is not None:
        raise Refused(
            f"cannot adopt {path}: {dynamic.service} has DynamicUser=, and systemd moves its "
            f"directory to {dynamic.private}",
            f"run 'systemctl restart {dynamic.service}', and adopt {dynamic.private}",
        )


def require_on_root(root: Path, path: str, live: str) -> None:
    """The path must be on the filesystem of the root: the copy leaves out other mounts."""
    mounts = mountinfo.mounts()
    mine = seeds.covering(Path(os.path.realpath(root)), mounts)
    one = seeds.covering(Path(live), mounts)
    if one is not None and mine is not None and one.id != mine.id:
        raise Refused(
            f"cannot adopt {path}: it is not on the root, but on the filesystem mounted at "
            f"{one.point}",
            "that filesystem is not wiped with the root, so its files need no adoption",
        )


def require_shown(root: Path, path: str, machine: Machine, before: Examination) -> None:
    """The root must show the whole content of the path; an overlay may hide a part."""
    if not whiteouts.is_overlay(str(root)):
        return
    with base_tree.opened(before.config, machine, before.volumes, []) as base:
        if base is None:
            return
        live = bare_root(root)
        try:
            whiteouts.require_none(path, live, base)
        finally:
            os.close(live)


def require_store(root: Path, store: str, before: Examination) -> None:
    """The store must exist, on its declared volume."""
    volume = volumes.covering(store, before.volumes)
    if root == Path("/") and volume is not None:
        mounted.require(volume)
    if not (root / store.lstrip("/")).is_dir():
        raise Refused(
            f"the directory of the store {store} is missing",
            f"run 'findmnt --target {store}' to see whether its volume is mounted",
        )


def is_only_parent(place: Path, inner: tuple[str, ...]) -> bool:
    """Whether the directory *place* of the store contains only the *inner* paths and their
    parents.
    """
    leading = {path[:n] for path in inner for n, char in enumerate(path) if char == "/"}
    todo = [""]
    try:
        while todo:
            above = todo.pop()
            with paths.entries(place / above) as found:
                for entry in found:
                    path = f"{above}/{entry.name}".lstrip("/")
                    if path in inner:
                        continue
                    if path not in leading or not entry.is_dir(follow_symlinks=False):
                        return False
                    todo.append(path)
    except OSError:
        return False
    return bool(inner)


def require_unbound(live: Path, inner: tuple[str, ...]) -> None:
    """Raise ``Refused`` if a declared path below *live* is in use from the store: the root has only
    an empty mount point for it, which would replace the content in the store.
    """
    for path in inner:
        if mountinfo.mounted_at(str(live / path)) is not None or (live / path).is_symlink():
            raise Refused(
                f"cannot replace {live} in the store: {live / path} is in use from the store",
                f"move the store's version away by hand, and adopt {live} without --replace",
            )
