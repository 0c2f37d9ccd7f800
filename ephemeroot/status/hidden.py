"""Content of the root that is hidden by a declared path whose source in the store is empty.

A bind usually hides a directory of the base and shows the store's content instead. If the source is
empty, no program sees any content.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations.linkable import Linkable
from ephemeroot.hooks.stage import RUN
from ephemeroot.linux import paths
from ephemeroot.status.boot_report import BootReport


def look(root: Path, boot: BootReport) -> list[str]:
    """A line for each such path in this boot of the machine at *root*, as far as this user can read
    the stores.
    """
    hiding = boot.outcomes.get("hiding", [])
    if not hiding:
        return []
    try:
        plan = plans.load(str(root / RUN.lstrip("/") / plans.FOLLOWED))
    except (Damaged, OSError):
        return []
    found = []
    for operation in plan.persist:
        if isinstance(operation, Linkable):
            line = f"{operation.describe()}: "
            result = next((one.removeprefix(line) for one in hiding if one.startswith(line)), "")
            place = root / operation.store.lstrip("/") / operation.source
            if result and _is_empty(place):
                what = result.partition("hiding ")[2]
                found.append(f"{operation.path} hides {what}, but is empty in {operation.store}")
    return found


def _is_empty(path: Path) -> bool:
    try:
        status = os.lstat(path)
        return not paths.names(path) if stat.S_ISDIR(status.st_mode) else not status.st_size
    except OSError:
        return False
