"""The entry point: ``python3 -m ephemeroot.hooks wipe|persist``, in boots, tests and rescue.

The exit status for the unit or the shell hook: 0 continue; 10 continue, a problem was
reported; 11 continue, another root than the plan's boots and nothing was done to it; 12 continue,
the layer above the installed root is in memory, because it could not be made on its volume; 71
reboot; 72 power off; 73 stop, emergency; 2 wrong usage; 3 locked by another run.
Anything else, 20 for a plan that cannot be used and 70 for a bug among it, means that this
program has not applied a policy: then the policy in the image decides. 1 is also
not a decision: the interpreter exits with it if it cannot find its own library.
"""

from __future__ import annotations

import errno
import os
import sys

from ephemeroot.errors import (
    Damaged,
    DeviceMissing,
    EphemerootError,
    ForeignRoot,
    Locked,
    StoreMissing,
)
from ephemeroot.hooks import cmdline as kernel_cmdline
from ephemeroot.hooks import persist, wipe
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.report import CRITICAL, WARNING, Report
from ephemeroot.hooks.stage import RUN, Stage
from ephemeroot.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.hooks.cmdline import CommandLine
    from ephemeroot.hooks.plan import Plan

DONE, EMERGENCY, USAGE, LOCKED, DONE_WITH_PROBLEMS, FOREIGN, IN_MEMORY, NO_PLAN, BUG = (
    0, 73, 2, 3, 10, 11, 12, 20, 70,
)  # fmt: skip
REBOOT, POWEROFF = 71, 72

_EXIT = {
    "emergency": EMERGENCY,
    "reboot": REBOOT,
    "poweroff": POWEROFF,
    "keep": DONE_WITH_PROBLEMS,
    "continue": DONE_WITH_PROBLEMS,
}

_RESCUE = {
    "wipe": "to boot without wiping, append ephemeroot.wipe=no to the kernel command line",
    "store": "to boot without persistence, append ephemeroot=no to the kernel command line",
    "root": "to boot another root, change root= on the kernel command line",
    "path": "to boot despite the failure, append ephemeroot.on-failure=continue to the kernel "
    "command line",
}

_USAGE = """\
    wipe|persist --plan FILE --target DIR [--cmdline STRING] [--report FILE] [--run DIR]
                 [--boot] [--check] [--wait] [--verbose]
    wipe --dry-run …     describe the wipe; nothing is changed, and no report is written
"""


class Options:
    """The words of the entry's own command line. Raises ``ValueError`` for wrong ones."""

    __slots__ = (
        "boot",
        "check",
        "cmdline",
        "dry_run",
        "plan",
        "report",
        "run",
        "stage",
        "target",
        "verbose",
        "wait",
    )

    def __init__(self, arguments: list[str]) -> None:
        self.stage = self.plan = self.target = ""
        self.run = RUN
        self.cmdline: str | None = None
        self.report: str | None = None
        self.boot = self.check = self.dry_run = self.verbose = self.wait = False
        left = list(arguments)
        while left:
            word = left.pop(0)
            if word in ("--boot", "--check", "--dry-run", "--verbose", "--wait"):
                setattr(self, word[2:].replace("-", "_"), True)
            elif word in ("--plan", "--target", "--cmdline", "--report", "--run") and left:
                setattr(self, word[2:], left.pop(0))
            elif word in ("wipe", "persist") and not self.stage:
                self.stage = word
            else:
                raise ValueError(word)
        if not (self.stage and self.plan and self.target):
            raise ValueError("a stage, --plan and --target are required")
        if self.dry_run and self.stage != "wipe":
            raise ValueError("--dry-run is only for the stage wipe")
        if self.dry_run:
            self.report = None
        elif self.report is None:
            self.report = self.run + "/boot.json"


def main(
    arguments: list[str], packed: Callable[[bytes], dict[str, object] | None] | None = None
) -> int:
    """Run one stage; return the exit code. *packed*: see ``plan.load``."""
    paths.have_standard_streams()
    os.umask(0o022)
    try:
        options = Options(arguments)
    except ValueError as error:
        os.write(2, f"ephemeroot: wrong usage: {error}\n{_USAGE}".encode(errors="replace"))
        return USAGE
    line = (
        kernel_cmdline.read()
        if options.cmdline is None
        else kernel_cmdline.CommandLine(options.cmdline)
    )
    report = Report(
        options.stage,
        options.report,
        _boot_id(),
        boot=options.boot,
        verbose=options.verbose,
    )
    try:
        os.makedirs(options.run, 0o755, exist_ok=True)
    except OSError as error:
        # Operations that need it fail, and their policy decides.
        report.problem(f"cannot create {options.run}: {error.strerror}", level=WARNING)
    for problem in line.problems():
        report.problem(problem, level=WARNING)
    if line.is_off("ephemeroot"):
        report.finish("nothing done: ephemeroot=no")
        return DONE
    try:
        plan = plans.load(options.plan, packed)
    except Damaged as error:
        report.problem(error.message, error.hint, CRITICAL)
        report.finish("failed: the plan cannot be used")
        return NO_PLAN
    return _run(options, line, report, plan)


def _run(options: Options, line: CommandLine, report: Report, plan: Plan) -> int:
    report.set("generation", plan.generation)
    stage = Stage(plan, line, report, target=options.target, run=options.run, boot_id=_boot_id())
    stage.check = options.check
    stage.dry_run = options.dry_run
    stage.wait = options.wait
    try:
        _lock(stage, options.stage)
        ownership.require_no_crash_kernel(line)
        result = (wipe if options.stage == "wipe" else persist).run(stage)
    except ForeignRoot as error:
        report.finish(ownership.remember(stage, error))
        return FOREIGN
    except Locked as error:
        report.log(f"{error.message} ({error.hint})", WARNING)
        return LOCKED
    except (EphemerootError, OSError) as error:
        return _fail(stage, options.stage, error)
    except Exception:  # noqa: BLE001  # a bug must not look like a decision: 1 is one
        sys.excepthook(*sys.exc_info())
        report.problem(f"{options.stage} failed: this is a bug, see the traceback", "", CRITICAL)
        report.finish("failed: a bug")
        return BUG
    finally:
        stage.close()
        if options.stage == "wipe":
            for volume in plan.volumes():
                volume.release(stage)
    report.finish(result)
    return DONE_WITH_PROBLEMS if report.problems() else DONE


def _lock(stage: Stage, name: str) -> None:
    """Take the lock. Persistent paths are put in place without it where there is no room for it: no
    other run has got that far either.
    """
    try:
        stage.lock()
    except OSError as error:
        if name != "persist" or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        stage.report.problem(f"cannot lock {stage.run}: {error.strerror}", level=WARNING)


def _fail(stage: Stage, name: str, error: EphemerootError | OSError) -> int:
    """Say what failed and turn the policy for it into an exit code."""
    if isinstance(error, StoreMissing):
        kind = "store"
    elif isinstance(error, persist.PathFailed):
        kind = "path"
    elif name == "wipe":
        kind = "wipe"
    else:
        kind = "store"  # persistence as a whole did not happen
    policy = stage.cmdline.policy() or stage.plan.on_failure[kind]
    if isinstance(error, persist.PathFailed) and policy == "continue":
        # A required path, for which continuing was ruled out; only the command line may.
        policy = "continue" if stage.cmdline.policy() else "emergency"
    bare = isinstance(error, DeviceMissing) or wipe.has_nothing_to_keep(stage)
    if kind == "wipe" and bare and not wipe.has_fresh_root(stage):
        kind = "root"
        policy = "emergency" if _EXIT[policy] == DONE_WITH_PROBLEMS else policy
    message = error.message if isinstance(error, EphemerootError) else _os_message(error)
    hint = error.hint if isinstance(error, EphemerootError) else ""
    stage.report.problem(f"{name} failed: {message}", hint, CRITICAL)
    if name == "wipe" and _EXIT[policy] == DONE_WITH_PROBLEMS:
        try:
            if wipe.fall_back(stage, message):
                wipe.remember_kept(stage, message)
                stage.report.finish(f"the layer is in memory: {message}")
                return IN_MEMORY
        except (EphemerootError, OSError) as failure:
            # The installed root below is not for boots that write to it.
            text = failure.message if isinstance(failure, EphemerootError) else _os_message(failure)
            stage.report.problem(
                f"cannot mount the overlay's layer in memory: {text}", "", CRITICAL
            )
            kind, policy = "wipe", "emergency"
    if _EXIT[policy] == DONE_WITH_PROBLEMS:
        if name == "wipe":
            stage.report.log(wipe.what_is_kept(stage), WARNING)
            wipe.remember_kept(stage, message)
    else:
        stage.report.log(_RESCUE[kind], CRITICAL)
    stage.report.set("policy", policy)
    stage.report.finish(f"failed: {message}")
    return _EXIT[policy]


def _os_message(error: OSError) -> str:
    name = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{name}"


def _boot_id() -> str:
    return paths.read("/proc/sys/kernel/random/boot_id").decode().strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
