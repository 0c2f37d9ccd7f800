"""Whether a path persists, by the configuration, the applied plan and the mounts.

Kernel filesystems and filesystems in memory never persist. A declared path persists if the applied
plan has it, and a path on a volume of its own persists. Every other path belongs to the root, and
has the content of the base after the next boot.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ephemeroot.config import Examination, Machine, examine, read, volumes
from ephemeroot.config.declared import Declared
from ephemeroot.config.resolution import Roots
from ephemeroot.config.syntax import clean
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine import files
from ephemeroot.old_roots import histories
from ephemeroot.plan import applied, seeds
from ephemeroot.status import declared_paths

_APPLY = "ephemeroot apply"


@dataclass(slots=True)
class Whereabouts:
    """The result for ``path``. ``reason`` is a keyword for programs: ``declared``, ``volume``,
    ``store``, ``memory``, ``kernel``, ``root``, ``not-applied`` or ``not-wiped``.
    """

    path: str
    persists: bool = False
    reason: str = "root"
    verdict: str = ""
    rows: list[tuple[str, str]] = field(default_factory=list)
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def decide(self, reason: str, verdict: str, *, persists: bool, hint: str = "") -> Whereabouts:
        """Set the result; returns ``self``."""
        self.reason, self.verdict, self.persists, self.hint = reason, verdict, persists, hint
        return self

    def to_json(self) -> dict[str, Any]:
        """The data for JSON output."""
        return {
            "path": self.path,
            "persists": self.persists,
            "reason": self.reason,
            "verdict": self.verdict,
            "hint": self.hint or None,
            **self.facts,
        }


def find(root: Path, path: str, configuration: str | None = None) -> Whereabouts:
    """Examine *path* on the machine at *root*. Raises ``EphemerootError`` or ``OSError``."""
    machine = Machine.of(str(root))
    examination = examine(read(machine, configuration), machine)
    found = Whereabouts(path)
    stores = [store.path for store in examination.config.stores]
    live = Roots(str(root), stores=stores).resolve(path, follow_last=False, live=True)
    if live != path:
        found.rows.append(("leads to", live))
        found.facts["leads-to"] = live
    return _Search(root, examination, applied.load(root), found, live).run()


class _Search:
    """The search for one path; *live* is the path with its links resolved."""

    def __init__(
        self,
        root: Path,
        examination: Examination,
        plan: Plan | None,
        found: Whereabouts,
        live: str,
    ) -> None:
        self.root = root
        self.examination = examination
        self.plan = plan
        self.found = found
        self.live = live

    def run(self) -> Whereabouts:
        found, live = self.found, self.live
        if any(clean.is_below(live, place) for place in volumes.KERNELS_OWN):
            return found.decide("kernel", "is created by each boot", persists=False)
        declared = self._declared()
        planned = _covering(self.plan.declared() if self.plan else {}, [found.path, live])
        if declared is not None or planned is not None:
            return self._of_declared(declared, planned)
        store = _covering({one.path: one.path for one in self.examination.config.stores}, [live])
        if store is not None:
            return found.decide("store", f"persists: it is in the store {store}", persists=True)
        return self._undeclared()

    def _declared(self) -> Declared | None:
        """The innermost declared path that is this path or contains it."""
        fitting = [
            one
            for one in self.examination.declared
            for path in {self.found.path, self.live}
            for place in {one.path, one.live, one.declared}
            if path == place or (one.is_directory and clean.is_below(path, place))
        ]
        return max(fitting, key=lambda one: len(clean.components(one.path)), default=None)

    def _of_declared(self, declared: Declared | None, planned: str | None) -> Whereabouts:
        found = self.found
        if declared is not None:
            self._describe(declared)
        if declared is None:
            found.rows.append(("applied", f"{planned}, in the plan of this machine"))
            return found.decide(
                "not-applied", f"is not declared any more, and persists until '{_APPLY}'",
                persists=True, hint=f"declare it, or run '{_APPLY}' to forget it",
            )  # fmt: skip
        if planned is None:
            kept = self._undeclared().persists
            verdict = f", and {found.verdict}" if kept else ": the next boot forgets it"
            return found.decide(
                "not-applied", f"is declared but not applied{verdict}", persists=kept,
                hint=f"run '{_APPLY}'",
            )  # fmt: skip
        lost = self._not_in_effect(declared)
        if lost:
            found.rows.append(("in effect", f"no: {lost}"))
            found.facts["in-effect"] = False
            return found.decide(
                "declared", "is declared but not in effect in this boot", persists=False,
                hint="run 'ephemeroot status'",
            )  # fmt: skip
        return found.decide("declared", "persists", persists=True)

    def _describe(self, declared: Declared) -> None:
        rows, place = self.found.rows, declared.place
        by = "" if declared.path in (self.found.path, self.live) else f"{declared.path}, "
        rows.append(("declared", f"{by}{place}"))
        inside = _below(self.live, declared.live) or _below(self.found.path, declared.declared)
        rows.append(("stored as", declared.in_store + (inside or "")))
        rows.append(("method", declared.options.method))
        self.found.facts |= {
            "declared": declared.path,
            "place": str(place),
            "store": declared.store,
            "stored-as": declared.in_store + (inside or ""),
            "method": declared.options.method,
        }

    def _not_in_effect(self, declared: Declared) -> str:
        try:
            lost = declared_paths.look(self.root)
        except OSError:
            return ""
        return next((one.reason for one in lost if one.path == declared.path), "")

    def _undeclared(self) -> Whereabouts:
        found, live = self.found, self.live
        volume = volumes.covering(live, self.examination.volumes)
        if volume is not None and volume.persists:
            return found.decide(
                "volume", f"persists: it is on the volume {volume.mount_point} "
                f"({volume.device}, {volume.type})", persists=True,
            )  # fmt: skip
        mount = seeds.covering(self.root / live.lstrip("/"), mountinfo.mounts())
        top = os.path.realpath(self.root)
        if mount is not None and mount.point != top and clean.is_below(mount.point, top):
            where = "/" + os.path.relpath(mount.point, top)
            if mount.fstype in ("tmpfs", "ramfs"):
                return found.decide(
                    "memory", f"does not persist: it is in memory, on the tmpfs at {where}",
                    persists=False,
                )  # fmt: skip
            if volume is None:
                return found.decide(
                    "volume", f"is on {mount.source}, which is mounted at {where} and not wiped",
                    persists=True,
                )  # fmt: skip
        target = volume.mount_point if volume is not None else "/"
        if self.plan is None or target not in [wipe.target for wipe in self.plan.wipes()]:
            return found.decide(
                "not-wiped", f"persists: {target} is not made fresh at boot", persists=True
            )
        hint = ""
        if os.path.lexists(self.root / live.lstrip("/")):
            hint = f"run 'ephemeroot adopt {shlex.quote(live)}' to keep it"
        base = self._in_base(target)
        if base:
            found.rows.append(("next boot", base))
        return found.decide(
            "root", f"does not persist: it is on {target}, which is made fresh at each boot",
            persists=False, hint=hint,
        )  # fmt: skip

    def _in_base(self, target: str) -> str:
        """The content of the path in the next root; empty if it is not known."""
        if os.geteuid() != 0:
            return ""
        inside = _below(self.live, target) or "/"
        with suppress(EphemerootError, OSError, ImportError):
            keeper = histories.fresh_at(str(self.root), target)
            with Namespace() as private, keeper.past(private) as history:
                mount = history.mount_base() if history is not None else None
                if mount is None:
                    return "it does not exist: new roots are empty"
                try:
                    exists = files.exists_beneath(mount, inside)
                finally:
                    os.close(mount)
            return "the content of the base" if exists else "it does not exist in the base"
        return ""


def _covering(places: dict[str, str], paths: Iterable[str]) -> str | None:
    """The innermost of *places* that is one of *paths* or contains one."""
    above = [place for place in places for path in paths if clean.is_below(path, place)]
    return max(above, key=len, default=None)


def _below(path: str, top: str) -> str | None:
    """The part of *path* after *top*, empty for *top* itself; ``None`` if it is not under *top*."""
    if path == top:
        return ""
    if top == "/":
        return path
    return path[len(top) :] if path.startswith(f"{top}/") else None
