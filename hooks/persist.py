"""The persistence stage: put the declared paths under the fresh root."""

from __future__ import annotations

import os
import sys
import time

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks import limits, records, wipe
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.guards import generation, ownership
from ephemeroot.hooks.omission import Allowance
from ephemeroot.hooks.operations import labels
from ephemeroot.hooks.operations.volumes import Attach
from ephemeroot.hooks.report import WARNING
from ephemeroot.hooks.store import (
    booted,
    copied,
    machine_id_file,
    nesting,
    order,
    owner_names,
    replaced,
    request,
    seeding,
)
from ephemeroot.linux import immutable, mountinfo, mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.operation import Operation
    from ephemeroot.hooks.plan import Plan
    from ephemeroot.hooks.stage import Stage


class PathFailed(EphemerootError):
    """A declared path failed that the machine must not boot without."""


def run(stage: Stage) -> str:
    """Carry out the persistence stage; return the result in a few words.

    Raises ``ForeignRoot`` if the root is not the plan's, ``StoreMissing``, ``Refused`` (the
    root is not the fresh one), ``PathFailed`` for an entry
    that is ``required`` or whose policy says so.
    """
    wipe.require_ours(stage)
    if not stage.cmdline.allows("ephemeroot.persist"):
        _forget_request(stage)
        return "no path is persistent: ephemeroot.persist=no"
    _find_stores(stage)
    wipe.require_fresh(stage)
    _follow_newest(stage)
    _record_plan(stage)
    _sweep(stage)
    writable = _make_writable(stage)
    if not stage.was_kept():
        replaced.forget(stage)
    if any(operation.KIND == "copy" for operation in stage.plan.persist):
        stage.behind = booted.open_layer_behind(stage)
    try:
        failed = _carry_out(stage)
        _record_made(stage)
        replaced.remember(stage, failed)
        owner_names.check(stage)
        copied.remember(stage)
        booted.remember(stage)
        _record_root(stage)
        _label_records(stage)
    finally:
        if not writable:
            _make_read_only(stage)
    _leave_volumes(stage)
    done = len(stage.plan.persist) - len(failed)
    _stop_if_needed(stage, failed)
    request.consume(stage)
    return f"{done} of {len(stage.plan.persist)} operations done"


def _forget_request(stage: Stage) -> None:
    """A request is for one boot only. The stores may be broken."""
    try:
        _find_stores(stage)
        if not stage.was_kept():
            replaced.forget(stage)
        booted.remember(stage)
        request.consume(stage)
    except (EphemerootError, OSError) as error:
        stage.report.log(f"cannot remove the request for the next boot: {error}")


def _sweep(stage: Stage) -> None:
    """Leftovers of an interrupted boot in a store disturb nothing: a warning at most."""
    for store in stage.plan.stores():
        try:
            seeding.sweep(stage.store(store.path))
        except OSError as error:
            stage.report.problem(
                f"{store.path}: unfinished copies of an earlier boot were not removed: "
                f"{error.strerror}",
                level=WARNING,
            )


def _record_made(stage: Stage) -> None:
    """A root too full for the record boots anyway: its worst is an empty seed."""
    try:
        records.write_made(stage.root(), stage.made)
        nesting.remember(stage)
    except OSError as error:
        stage.report.problem(f"cannot record the paths created in the root: {error.strerror}")


def _record_root(stage: Stage) -> None:
    """The verbs of the real system leave another root alone."""
    try:
        ownership.remember_mounted(stage)
    except OSError as error:
        stage.report.problem(f"cannot record which root this is: {error.strerror}", level=WARNING)


def _label_records(stage: Stage) -> None:
    """Without a label they are ``unlabeled_t``, which many programs must not read."""
    try:
        for operation in stage.plan.persist:
            # By its kind first: without such an operation the module does not run.
            if operation.KIND == "label" and isinstance(operation, labels.Label):
                operation.label_records(stage)
    except (EphemerootError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        stage.report.problem(f"cannot label the records: {reason}", level=WARNING)


def _record_plan(stage: Stage) -> None:
    """Leave the plan for the installed system, which may have another one by then."""
    try:
        paths.write_atomically(
            f"{stage.run}/{plans.FOLLOWED}", stage.plan.recorded(), stage.plan.mode
        )
    except OSError as error:
        stage.report.problem(f"cannot record the plan: {error.strerror}", level=WARNING)


def _find_stores(stage: Stage) -> None:
    """The wipe stage has found them; if it did not run, or in another process, again."""
    for operation in stage.plan.wipe:
        if operation.KIND in ("network", "volume", "store"):
            operation.execute(stage)


def _newer_plan(stage: Stage) -> Plan | None:
    """The newest plan of the stores, if it is newer than this image's and understood."""
    for path, newest in generation.recorded(stage):
        if newest <= stage.plan.generation:
            continue
        try:
            plan = plans.parse(
                generation.read_record(stage.store(path), generation.PLAN),
                f"the plan in the store {path}",
            )
        except (Damaged, EphemerootError, OSError) as error:
            stage.report.problem(f"the newer plan in the store {path} cannot be used: {error}")
            continue
        if plan.generation == newest:
            return plan
    return None


def _follow_newest(stage: Stage) -> None:
    """Bind by the newest plan: an old image may not know all declared paths."""
    newer = _newer_plan(stage)
    if newer is None:
        return
    stage.report.problem(
        f"this image is of generation {stage.plan.generation}; declared paths follow "
        f"generation {newer.generation} in the store",
        "run 'ephemeroot apply' to rebuild all images",
        WARNING,
    )
    stage.forget_stores()
    stage.plan = newer
    _find_stores(stage)


def _make_writable(stage: Stage) -> bool:
    """Make the new root writable and private; return whether it was writable before."""
    mount = mountinfo.mounted_at(stage.target)
    if mount is None:
        raise EphemerootError(f"nothing is mounted at {stage.target}")
    writable = "ro" not in mount.options and "ro" not in mount.super_options
    if not writable:
        mounts.make_writable(stage.target, [*mount.options, *mount.super_options])
    mounts.make_private(stage.target)
    return writable


def _make_read_only(stage: Stage) -> None:
    """Restore the mount's flag only: the superblock may be the store's as well."""
    fd = os.open(stage.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.set_flags(fd, set_=mounts.MOUNT_ATTR_RDONLY, name=stage.target)
    finally:
        os.close(fd)


def _carry_out(stage: Stage) -> list[Operation]:
    """Carry out all operations; those that failed. Seeding and copying have a deadline, which each
    user has a share of; attaching and binding have none.
    """
    failed = []
    owners = order.Owners(stage.plan.persist)
    groups = order.deferred(stage.plan.persist, owners, lambda o: _is_long(stage, o))
    try:
        for group, deadline in order.timed(groups, limits.PERSISTENCE):
            stage.allowance = Allowance(deadline)
            failed += [o for o in group.operations if not _carried_out(stage, o)]
    finally:
        stage.allowance = Allowance()
    return failed


def _is_long(stage: Stage, operation: Operation) -> bool:
    """Whether *operation* copies or compares something, rather than bind what the store has."""
    if operation.KIND == "copy":
        return True
    if operation.KIND not in ("directory", "file"):
        return False
    try:
        store = stage.store(getattr(operation, "store", ""))
        os.close(paths.open_beneath(store, getattr(operation, "source", "")))
    except FileNotFoundError:
        return True
    except (EphemerootError, OSError):
        return False  # it fails, and says so
    return False


def _carried_out(stage: Stage, operation: Operation) -> bool:
    """Carry out one operation; one that fails is reported and does not stop the others.

    A volume is not a path: the machine was promised it.
    """
    started = time.monotonic()
    stage.begin(getattr(operation, "path", ""))
    try:
        result = operation.execute(stage)
    except (EphemerootError, OSError) as error:
        reason, hint = _reason(error), _hint(error)
        if isinstance(error, PermissionError):
            reason, hint = _locked(stage, operation) or (reason, hint)
        result = f"failed: {reason}"
        stage.report.problem(f"{operation.describe()}: {reason}", hint)
        stage.report.operation(operation, result, time.monotonic() - started)
        if isinstance(operation, Attach):
            raise
        return False
    except Exception as error:  # a bug in one must not take the others along
        if isinstance(operation, Attach):
            raise
        sys.excepthook(*sys.exc_info())
        stage.report.problem(f"{operation.describe()}: this is a bug: {error!r}")
        stage.report.operation(operation, "failed: a bug", time.monotonic() - started)
        return False
    stage.report.operation(operation, result, time.monotonic() - started)
    return True


def _reason(error: EphemerootError | OSError) -> str:
    if isinstance(error, EphemerootError):
        return error.message
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _locked(stage: Stage, operation: Operation) -> tuple[str, str] | None:
    """The immutable part of the path of *operation*, in the root or in the store, and the command
    that makes it writable; ``None`` if nothing is.
    """
    places = [(stage.root(), getattr(operation, "path", ""), "")]
    store, source = getattr(operation, "store", ""), getattr(operation, "source", "")
    if store and source:
        places.append((stage.store(store), source, store))
    for root, path, shown in places:
        found, word = immutable.culprit(root, path) if path else ("", "")
        if found:
            place = f"{shown}{found}" if found != "/" or not shown else shown
            where = "" if shown else ", and in the base"
            return f"{place} is {word}", f"run 'chattr -i -a {place}'{where}"
    return None


def _hint(error: EphemerootError | OSError) -> str:
    return error.hint if isinstance(error, EphemerootError) else ""


def _leave_volumes(stage: Stage) -> None:
    """Drop the private mounts; those attached under the new root stay."""
    for place in [stage.volume(volume.name) for volume in reversed(stage.plan.volumes())]:
        if stage.is_mounted(place):
            try:
                mounts.detach(place)
            except OSError as error:
                stage.report.problem(f"cannot unmount {place}: {error.strerror}")


def _stop_if_needed(stage: Stage, failed: list[Operation]) -> None:
    for operation in failed:
        if getattr(operation, "required", False):
            path = getattr(operation, "path", machine_id_file.PATH)
            raise PathFailed(f"{path} is required, but could not be made persistent")
    if failed and stage.plan.on_failure["path"] != "continue":
        raise PathFailed(f"{len(failed)} declared paths could not be made persistent")
