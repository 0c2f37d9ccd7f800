"""The applied plan, from which images are built.

An edited configuration takes effect only with ``ephemeroot apply``, which writes this one file.
Kernel updates rebuild images from it.
"""

from __future__ import annotations

from pathlib import Path

from ephemeroot.config import sources
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.stage import RUN
from ephemeroot.linux import documents


def path(root: Path) -> Path:
    """The file with the applied plan of the system at *root*."""
    return root / sources.PLAN.lstrip("/")


def read(root: Path) -> bytes | None:
    """The bytes of the applied plan; ``None`` if no plan is applied.

    Raises ``OSError`` if it cannot be read.
    """
    try:
        return documents.read(str(path(root)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def load(root: Path) -> Plan | None:
    """The applied plan, validated. Raises ``Damaged``, and ``PermissionError`` for a user who may
    not read it.
    """
    try:
        raw = read(root)
    except PermissionError:
        raise
    except OSError as error:
        raise Damaged(f"cannot read {path(root)}: {error.strerror}") from error
    return None if raw is None else plans.parse(raw, str(path(root)))


def booted() -> Plan | None:
    """The plan that this boot followed; ``None`` if it followed no plan that can be read."""
    try:
        return plans.load(f"{RUN}/{plans.FOLLOWED}")
    except Damaged:
        return None


def are_equivalent(one: Plan, other: Plan) -> bool:
    """Whether both plans make a boot do the same. Generation and host do not change a boot, and
    only `apply` knows the system's id.
    """
    first, second = one.to_json(), other.to_json()
    for key in ("generation", "host", "system"):
        del first[key], second[key]
    return first == second


def generation(root: Path) -> int:
    """The applied plan's generation; 0 if there is no plan that can be read."""
    try:
        plan = load(root)
    except (Damaged, OSError):
        return 0
    return plan.generation if plan else 0
