"""Where a declared path is: symbolic links on the way are resolved inside the root.

Declarations are ordered, compared and refused by the path that this gives; ``/srv/www`` with
``/srv`` a link to ``data/srv`` and ``/data/srv/www`` are the same.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from ephemeroot.config import clean, sources
from ephemeroot.hooks import tree

_LINKS = 40  # the kernel's own limit, MAXSYMLINKS

_STATES = ("/var/lib", "/var/cache", "/var/log")
"""Where systemd keeps a service's directories; those of DynamicUser= are in ``private`` there, and
have a link beside it (systemd.exec(5)).
"""


def resolve(root: str, path: str, stores: Sequence[str] = (), *, follow_last: bool) -> str:
    """*path* of the system below *root* without symbolic links; what is missing stays as written.

    Only links are followed that root made where only root can make them, as at boot, and none into
    one of the *stores*: a boot has made that. *follow_last*: a link at *path* itself is followed.
    """
    left = list(reversed(clean.components(path)))
    done: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            del done[-1:]
            continue
        target = _target(root, done, part, stores) if left or follow_last else None
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > _LINKS:
            return path
        if target.startswith("/"):
            done.clear()
        left += [name for name in reversed(target.split("/")) if name not in ("", ".")]
    found = "/" + "/".join(done)
    return _private(root, found) if follow_last else found


def _target(root: str, above: list[str], name: str, stores: Sequence[str]) -> str | None:
    directory = "/" + "/".join(above)
    place = sources.show(root, f"{directory.rstrip('/')}/{name}")
    try:
        status = os.lstat(place)
        if not stat.S_ISLNK(status.st_mode) or status.st_uid != 0:
            return None
        if not tree.is_roots_alone(os.stat(sources.show(root, directory))):
            return None
        target = os.readlink(place)
    except OSError:
        return None
    return None if any(clean.is_below(target, store) for store in stores) else target


def _private(root: str, path: str) -> str:
    """Where the state of a service with DynamicUser= is, also before it has made its link."""
    above, _, name = path.rpartition("/")
    private = f"{above}/private/{name}"
    if above not in _STATES or name == "private" or os.path.lexists(sources.show(root, path)):
        return path
    return private if os.path.isdir(sources.show(root, private)) else path
