"""The wipe stage: nothing is touched before everything is proven."""

from __future__ import annotations

import time

from ephemeroot.errors import Damaged, Refused
from ephemeroot.hooks.guards import generation, ownership, resume
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.report import WARNING
from ephemeroot.hooks.stage import WIPED
from ephemeroot.hooks.store import request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


def run(stage: Stage) -> str:
    """Carry out the wipe stage; return what became of it in a few words.

    Raises ``ForeignRoot`` if another root than the plan's boots, ``StoreMissing`` if a volume
    or a store is missing or the wrong one, ``Refused`` if another proof failed (nothing was
    changed in either case), and ``EphemerootError`` or ``OSError`` if the wipe failed half-way,
    in a state that the next boot completes.
    """
    foreign = ownership.recalled(stage)
    if foreign is not None:
        raise foreign
    record = stage.recall(WIPED) or {}
    wipes = stage.plan.wipes()
    if "kept" in record or (wipes and all(o.target in record for o in wipes)):
        return f"already done in this boot: {record.get('kept', 'wiped')}"
    root = stage.plan.root_wipe()
    if root is not None:
        ownership.require_named(stage, root)
    kept = _kept_by_command_line(stage)
    if kept and not has_nothing_to_keep(stage):
        remember_kept(stage, kept)
        return f"root kept: {kept}"
    unknown = stage.cmdline.unknown()
    if unknown:
        raise Refused(
            f"unknown word on the kernel command line: {unknown[0]}",
            "correct or remove it ('e' in the boot menu edits an entry)",
        )
    resume.require_none_pending(stage.cmdline)
    if root is not None and root.target not in record:
        ownership.require_same(stage, root)
    asked = False
    for operation in stage.plan.wipe:
        started = time.monotonic()
        if isinstance(operation, Wipe):
            if operation.target in record:
                continue  # later failures are retried
            # A root that holds nothing loses nothing, not even to an old image.
            bare = operation.leaves_nothing(stage)
            if not kept and not bare:
                generation.require_newest(stage)
            if not asked:
                # The stores have proven themselves by now: their records count.
                asked = True
                kept = kept or _follow_request(stage)
            if kept and not bare:
                if not has_nothing_to_keep(stage):
                    remember_kept(stage, kept)
                    return f"root kept: {kept}"
                stage.report.log(f"{operation.target} is kept: {kept}")
                continue
        elif isinstance(operation, MountVolume):
            operation.require_single()
        result = operation.execute(stage)
        stage.report.operation(operation, result, time.monotonic() - started)
    if stage.dry_run:
        return "nothing done: dry run"
    return "wiped" if wipes else "nothing to wipe"


def _kept_by_command_line(stage: Stage) -> str:
    """The word of the kernel command line with which nothing is made fresh, or ``""``."""
    if not stage.cmdline.allows("ephemeroot.wipe"):
        return "ephemeroot.wipe=no"
    root = stage.plan.root_wipe()
    try:
        words = root.load().KEPT_BY if root is not None else ()
    except Damaged:
        return ""  # the wipe reports it
    present = [word for word in words if stage.cmdline.has(word)]
    return f"{present[0]} on the kernel command line" if present else ""


def _follow_request(stage: Stage) -> str:
    """Note which old root to boot; return why nothing is made fresh, or ``""``.

    Raises ``Refused`` for a request that is not understood.
    """
    line = stage.cmdline
    stage.old_root = line.get("ephemeroot.root")
    if line.has("ephemeroot.root") and not stage.old_root:
        raise Refused(
            "ephemeroot.root= on the kernel command line does not name an old root",
            "write ephemeroot.root=NAME; list the names with 'ephemeroot roots list'",
        )
    found = request.find(stage)
    if found is None:
        return ""
    if line.has("ephemeroot.wipe") or line.has("ephemeroot.root"):
        stage.report.log(f"{found.words()}: ignored, the kernel command line takes precedence")
        return ""
    stage.report.set("request", found.words())
    stage.old_root = found.root
    return found.words() if found.word == request.KEEP else ""


def has_nothing_to_keep(stage: Stage) -> bool:
    """Whether the root is new at each boot by its nature, so that none could be kept."""
    return any(wipe.leaves_nothing(stage) for wipe in stage.plan.wipes())


def has_fresh_root(stage: Stage) -> bool:
    """Whether this boot has made its root fresh, whatever failed after that."""
    return "/" in stage.fresh or "/" in (stage.recall(WIPED) or {})


def require_ours(stage: Stage) -> None:
    """Raise ``ForeignRoot`` if the root of this boot is not the plan's: the wipe stage has found
    that, or did not run, or kept the root before it knew.
    """
    foreign = ownership.recalled(stage)
    if foreign is not None:
        raise foreign
    root = stage.plan.root_wipe()
    if root is None or root.target in (stage.recall(WIPED) or {}):
        return
    ownership.require_named(stage, root)
    ownership.require_mounted(stage, root)


def require_fresh(stage: Stage) -> None:
    """Raise ``Refused`` if the mounted root or a volume is not the one made by the wipe."""
    record = stage.recall(WIPED)
    for operation in stage.plan.wipes():
        if record is None:
            stage.report.problem("the wipe stage left no record: the root was not made fresh")
            return
        facts = record.get(operation.target)
        if not isinstance(facts, dict):
            continue  # kept on purpose; the wipe stage has said so
        fresh = facts["fresh"]
        point = _mounted_at(stage, operation.target)
        if not operation.load().is_fresh(point, fresh):
            what = "root" if operation.target == "/" else operation.target
            raise Refused(
                f"the filesystem mounted at {point} is not the fresh {what}",
                "compare root= and rootflags=, or the volume's options, with the configuration",
            )


def _mounted_at(stage: Stage, target: str) -> str:
    """The mount point of the fresh *target* during the persistence stage."""
    for volume in stage.plan.volumes():
        if volume.mount_point == target:
            return stage.volume(volume.name)
    return stage.target


def remember_kept(stage: Stage, reason: str) -> None:
    """Record that nothing more is made fresh in this boot.

    What already was stays on record: it must be marked as boot-complete. A record that cannot be
    written is a problem: the next stage says then that it does not know.
    """
    if stage.dry_run:
        return
    record = stage.recall(WIPED) or {"boot-id": stage.boot_id}
    record["kept"] = reason
    try:
        stage.remember(WIPED, record)
    except OSError as error:
        stage.report.problem(
            f"cannot record in {stage.run} that the root was kept: {error.strerror}",
            level=WARNING,
        )


def fall_back(stage: Stage, reason: str) -> bool:
    """Boot a layer in memory, because the wipe failed for *reason* and the installed root
    must not be written to; False if there is no such layer above this machine's root.

    Raises ``EphemerootError`` or ``OSError`` if that fails too: nothing may be booted then.
    """
    root = stage.plan.root_wipe()
    if stage.dry_run or not is_layered(root) or has_fresh_root(stage):
        return False
    if root is not None:
        root.fall_back(stage, reason)
    stage.report.log(
        f"this boot has its layer in memory: undeclared files are lost at power-off ({reason})",
        WARNING,
        console=True,
    )
    return True


def is_layered(root: Wipe | None) -> bool:
    """Whether the root is made fresh by a layer above an installed one, see ``Wiper.LAYERED``."""
    try:
        return root is not None and root.load().LAYERED
    except Damaged:
        return False


def what_is_kept(stage: Stage) -> str:
    """A line for people on what a wipe that failed has left."""
    recorded = {key for key in stage.recall(WIPED) or {} if key.startswith("/")}
    fresh = sorted(recorded | stage.fresh)
    if "/" in fresh:
        return f"{', '.join(fresh)} was made fresh before the failure; the rest is kept"
    return "the root is kept"
