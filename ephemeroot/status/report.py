"""The data of ``ephemeroot status``, which ``status_listing`` and ``to_json`` show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ephemeroot.base import missing_bases, package_record
from ephemeroot.base.missing_bases import Missing
from ephemeroot.base.package_record import Packages
from ephemeroot.hooks.omission import Omission
from ephemeroot.hooks.plan import Plan
from ephemeroot.old_roots.in_effect import NotInEffect
from ephemeroot.status import declared_paths
from ephemeroot.status.boot_report import BootReport
from ephemeroot.status.full_disks import Full
from ephemeroot.status.unapplied import Unapplied


@dataclass
class StoreStatus:
    """One store: ``state`` is ``ok`` or the fault; ``size`` and ``free`` in bytes."""

    path: str
    state: str
    size: int = 0
    free: int = 0


@dataclass
class Unseeded:
    """A path that was not seeded. ``missing``: the store lacks it altogether, so that it is not in
    effect.
    """

    omission: Omission
    missing: bool

    @property
    def line(self) -> str:
        """The omission and its consequence."""
        end = ": it is not in effect" if self.missing else ""
        return f"{self.omission.describe()}{end}"

    def to_json(self) -> dict[str, Any]:
        """The data for ``output.print_json``."""
        one = self.omission
        return {
            "path": one.path,
            "store": one.store,
            "in-effect": not self.missing,
            "reason": one.reason or None,
            "left-out": [{"path": name, "reason": reason} for name, reason in one.files],
            "left-out-count": one.count,
            "old-root": one.root or None,
            "hint": one.hint(),
        }


@dataclass
class Status:
    """All results of ``status``. ``unknown`` lists data that this user cannot read, ``damage`` data
    that is damaged; both leave the rest valid.
    """

    boot: BootReport
    plan: Plan | None
    booted: int | None
    stores: list[StoreStatus] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    next_boot: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    unseeded: list[Unseeded] = field(default_factory=list)
    not_in_effect: list[NotInEffect] = field(default_factory=list)
    missing_bases: list[Missing] = field(default_factory=list)
    unapplied: Unapplied = field(default_factory=Unapplied)
    full: list[Full] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    packages: Packages = field(default_factory=dict)

    def complaints(self) -> list[str]:
        """The faults, one line each."""
        lines = [*self.damage, *(p.get("problem", "") for p in self.boot.problems)]
        if self.boot.state == "failed" or (self.boot.state == "none" and self.plan is not None):
            lines.append(f"this root is not ephemeral: {self.boot.reason}")
        if self.boot.state == "in-memory":
            lines.append(
                "this root has its layer in memory: undeclared files are lost at power-off "
                f"({self.boot.reason})"
            )
        if self.boot.state == "foreign":
            return [*lines, *self.images]  # such a boot mounts no store
        lines += [f"the store {s.path}: {s.state}" for s in self.stores if s.state != "ok"]
        lines += [*(one.line for one in self.full), *self.unapplied.complaints]
        lines += [f"{one.line} ({missing_bases.HINT})" for one in self.missing_bases]
        lines += [declared_paths.line(one) for one in self.not_in_effect]
        return [*lines, *(one.line for one in self.unseeded), *self.images]

    def to_json(self) -> dict[str, Any]:
        """The data for ``output.print_json``."""
        return {
            "root": self.boot.state,
            "reason": self.boot.reason or None,
            "stages": self.boot.stages,
            "wiped": self.boot.wiped,
            "outcomes": self.boot.outcomes,
            "generation": {
                "booted": self.booted,
                "applied": self.plan.generation if self.plan else None,
            },
            "stores": [
                {"path": s.path, "state": s.state, "size": s.size, "free": s.free}
                for s in self.stores
            ],
            "unseeded": [one.to_json() for one in self.unseeded],
            "not-in-effect": declared_paths.to_json(self.not_in_effect),
            "not-applied": {
                "added": self.unapplied.added,
                "removed": self.unapplied.removed,
                "errors": self.unapplied.errors,
                "differs": self.unapplied.differs,
            },
            "full": [
                {
                    "paths": one.paths,
                    "size": one.size,
                    "free": one.free,
                    "holders": [{"name": h.name, "size": h.size} for h in one.holders],
                }
                for one in self.full
            ],
            "hidden": self.hidden,
            "packages": package_record.to_json(self.packages),
            "images": self.images,
            "next-boot": self.next_boot,
            "complaints": self.complaints(),
            "unknown": self.unknown,
        }
