"""The content of a tree, as far as seeding preserves it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """Every property of *top* and the entries below it that a copy must have."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            continue
        content: object = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        attributes = tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in os.listxattr(path, follow_symlinks=False)
        )
        found[str(path.relative_to(top))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, attributes,
        )  # fmt: skip
    return found
