"""The report that the boot has written to /run/ephemeroot."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ephemeroot.errors import Damaged
from ephemeroot.hooks import report as reports
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.stage import FALLBACK, RUN, WIPED
from ephemeroot.linux import documents
from ephemeroot.plan import foreign

REPORT = "boot.json"
STAGES = ("wipe", "persist")
_REBOOT = "reboot: each boot writes a new report"

# Outcomes of declared paths, by the words in the operations' results.
_PATHS = ("directory", "file", "copy", "overlay", "machine-id")
_BECAME = (
    ("failed", "failed"), ("mounted", "overlaid"), ("copied", "copied"), ("linked", "linked"),
    ("link", "linked"), ("bound", "bound"), ("persists with", "bound"),
)  # fmt: skip


_WIPED = {
    "wiper": str, "retired": (str, type(None)), "pruned": [str], "kept": [str], "problems": [str],
    FALLBACK: str,
}  # fmt: skip
_STAGE = {
    "boot-id": str,
    "policy": str,
    ownership.RECORD: {"kind": str, "reason": str, "hint": str},
    "seconds": (int, float),
    "started": (int, float),
    "operations": [{"operation": str, "line": str, "result": str, "seconds": (int, float)}],
    "problems": [{"problem": str, "hint": str}],
}
_RECORD = {"boot-id": str, "kept": str}


@dataclass
class BootReport:
    """One boot. ``state`` is ``ephemeral`` (``/`` was made fresh), ``in-memory`` (the same, with a
    layer in memory), ``kept``, ``foreign`` (another root than the plan's), ``failed``, or ``none``
    (no stage ran); ``reason`` explains all states but ``ephemeral``. ``stages`` has the tables of
    the report, ``wiped`` the results of the wipes by target, ``outcomes`` the lines of declared
    paths by outcome. A path is also listed as ``seeded`` or ``hiding`` if it is.
    """

    state: str
    reason: str = ""
    stages: dict[str, Any] = field(default_factory=dict)
    wiped: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def problems(self) -> list[dict[str, str]]:
        """The problems of all stages, each with a hint."""
        return [p for stage in self.stages.values() for p in stage.get("problems", [])]

    def began(self, stage: str) -> float | None:
        """The time when *stage* began, in seconds since 1970."""
        started = self.stages.get(stage, {}).get("started")
        if not isinstance(started, (int, float)) or not 0 <= started < 1 << 32:
            return None
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + started


def read(root: Path) -> BootReport:
    """The report of the running boot of the machine at *root*.

    Raises ``Damaged`` if it is not valid, and ``OSError`` if it cannot be read.
    """
    folder = root / RUN.lstrip("/")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    document = _load(folder / REPORT)
    if document is None:
        return BootReport("none", "the initramfs of this boot wrote no report: it does not contain "
                          "ephemeroot, or is inert")  # fmt: skip
    if document.get("version") != reports.VERSION:
        raise Damaged(
            f"{folder / REPORT} has version {document.get('version')!r}, but this program supports "
            f"version {reports.VERSION}",
            "run 'ephemeroot apply' and reboot",
        )
    stages = {name: document[name] for name in STAGES if name in document}
    for stage in stages.values():
        if not documents.fits(stage, _STAGE) or not _are_wiped(stage, "wiped "):
            raise Damaged(f"{folder / REPORT} is damaged: a stage is not valid", _REBOOT)
    stages = {name: s for name, s in stages.items() if s.get("boot-id") == boot_id}
    if not stages:
        return BootReport("none", f"{folder / REPORT} belongs to another boot")
    try:
        record = _load(folder / WIPED) or {}
    except PermissionError:
        record = {}  # readable only by root; the report has most of its content
    if not documents.fits(record, _RECORD) or not _are_wiped(record, "/"):
        raise Damaged(f"{folder / WIPED} is damaged: its structure is not valid", _REBOOT)
    if record.get("boot-id") != boot_id:
        record = {}
    report = BootReport("none", stages=stages, outcomes=_outcomes(stages))
    wipe = stages.get("wipe", {})
    report.wiped = {
        key.removeprefix("wiped "): value for key, value in wipe.items() if key.startswith("wiped ")
    }
    report.wiped |= {key: value for key, value in record.items() if key.startswith("/")}
    result = str(wipe.get("result", ""))
    kept = str(record.get("kept", ""))
    if result.startswith("root kept: "):
        kept = result.removeprefix("root kept: ")
    elif result.startswith("failed: ") and wipe.get("policy") == "keep":
        kept = result.removeprefix("failed: ")
    others = [s[ownership.RECORD] for s in stages.values() if ownership.RECORD in s]
    if others:
        report.state, report.reason = "foreign", others[-1].get("reason", "")
    elif FALLBACK in report.wiped.get("/", {}):
        report.state, report.reason = "in-memory", report.wiped["/"][FALLBACK]
    elif "/" in report.wiped:
        report.state, report.reason = "ephemeral", kept
    elif kept:
        report.state, report.reason = "kept", kept
    elif result.startswith("failed"):
        report.state, report.reason = "failed", result.removeprefix("failed: ")
    else:
        report.reason = result or "the wipe stage did not run"
    other = foreign.of_boot(root)
    if other is not None and report.state != "foreign":
        report.state, report.reason = "foreign", other.message
    return report


def _are_wiped(facts: dict[str, Any], prefix: str) -> bool:
    """Whether the entries of *facts* whose names start with *prefix* are results of wipes."""
    found = {key: value for key, value in facts.items() if key.startswith(prefix)}
    return documents.fits(found, {str: _WIPED})


def _load(path: Path) -> dict[str, Any] | None:
    try:
        content = documents.parse(documents.read(str(path)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}", _REBOOT) from None
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged: not a JSON object", _REBOOT)
    return content


def _outcomes(stages: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    # A path that this boot has seeded hides only the files that it was seeded from.
    seeded = {
        entry.get("line")
        for stage in stages.values()
        for entry in stage.get("operations", [])
        if "seeded" in str(entry.get("result", ""))
    }
    for stage in stages.values():
        for entry in stage.get("operations", []):
            if entry.get("operation") not in _PATHS:
                continue
            result = str(entry.get("result", ""))
            line = f"{entry.get('line', '')}: {result}"
            if "seeded" in result or stage is stages.get("wipe"):
                found.setdefault("seeded", []).append(line)
            if "hiding" in result and entry.get("line") not in seeded:
                found.setdefault("hiding", []).append(line)
            if stage is stages.get("wipe"):
                continue
            became = next((name for word, name in _BECAME if word in result), "unchanged")
            found.setdefault(became, []).append(line)
    return found
