"""Whether the images on this machine follow the applied plan: an older image does not wipe."""

from __future__ import annotations

import os
from pathlib import Path

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks import plan as plans
from ephemeroot.image import archive, contents
from ephemeroot.image.generators import installed
from ephemeroot.plan import applied

_PLAN = contents.PLAN.lstrip("/")
_REASON = contents.REASON.lstrip("/")


def findings(root: Path) -> list[str]:
    """A line for each image under *root* that does not follow the applied plan.

    Empty if no plan is applied; images that this user cannot read are left out. Raises ``Damaged``
    for a damaged plan.
    """
    plan = applied.load(root)
    if plan is None:
        return []
    found = [path for generator in installed.every() for path in generator.files(root)]
    readable = [
        path for path in dict.fromkeys(found) if path.is_file() and os.access(path, os.R_OK)
    ]
    lines = [_finding(path, plan.generation) for path in readable]
    return [line for line in lines if line]


def _finding(path: Path, generation: int) -> str:
    try:
        found = archive.read(path, lambda name: name in (_PLAN, _REASON))
        if _REASON in found.names:
            return f"{path} is inert: it neither wipes nor persists"
        if _PLAN not in found.files:
            return f"{path} does not contain ephemeroot: it neither wipes nor persists"
        image = plans.parse(found.files[_PLAN], f"the plan in {path}").generation
    except (Damaged, EphemerootError, OSError) as error:
        return f"{path} cannot be read back: {error}"
    if image == generation:
        return ""
    return f"{path} is of generation {image}, generation {generation} is applied: it does not wipe"
