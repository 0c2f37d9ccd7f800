"""The wipe stage: nothing is touched before everything is proven."""

from __future__ import annotations

import time

from ephemeroot.errors import Refused
from ephemeroot.hooks import generation, resume
from ephemeroot.hooks.wipe import WIPED, Wipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


def run(stage: Stage) -> str:
    """Carry out the wipe stage; return what became of it in a few words.

    Raises ``StoreMissing`` if a volume or a store is missing or the wrong one,
    ``Refused`` if another proof failed (nothing was changed in either case), and
    ``EphemerootError`` or ``OSError`` if the wipe failed half-way, in a state that the
    next boot completes.
    """
    record = stage.recall(WIPED)
    if record is not None:
        return f"already done in this boot: {record.get('kept', 'wiped')}"
    if not stage.cmdline.allows("ephemeroot.wipe"):
        remember_kept(stage, "ephemeroot.wipe=no")
        return "root kept: ephemeroot.wipe=no"
    unknown = stage.cmdline.unknown()
    if unknown:
        raise Refused(f"the kernel command line asks for something unknown: {unknown[0]}")
    resume.require_none_pending(stage.cmdline)
    for operation in stage.plan.wipe:
        started = time.monotonic()
        if isinstance(operation, Wipe):
            generation.require_newest(stage)
        result = operation.execute(stage)
        stage.report.operation(operation, result, time.monotonic() - started)
    return "wiped" if any(isinstance(o, Wipe) for o in stage.plan.wipe) else "nothing to wipe"


def require_fresh(stage: Stage) -> None:
    """Raise ``Refused`` if what is mounted as the new root is not what the wipe made."""
    record = stage.recall(WIPED)
    for operation in stage.plan.wipe:
        if not isinstance(operation, Wipe) or operation.target != "/":
            continue
        if record is None:
            stage.report.problem("the wipe stage left no record: the root was not made fresh")
            continue
        facts = record.get("/")
        if not isinstance(facts, dict):
            continue  # kept on purpose; the wipe stage has said so
        fresh = facts["fresh"]
        if not operation.load().is_fresh(stage.target, fresh):
            raise Refused(
                f"what is mounted at {stage.target} is not the root that was made fresh",
                "compare root= and rootflags= with the configuration",
            )


def remember_kept(stage: Stage, reason: str) -> None:
    """Record that this boot goes on with the root as it is."""
    stage.remember(WIPED, {"boot-id": stage.boot_id, "kept": reason})
