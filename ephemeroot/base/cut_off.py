"""A ``base run`` that was cut off is ended before anything else writes boot loader files: what it
puts back would revert them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ephemeroot.errors import EphemerootError, Locked
from ephemeroot.machine import files
from ephemeroot.plan import applied


def is_possible(root: str) -> bool:
    """Whether *root* is the running machine's and has a base, by its applied plan.

    Raises ``Damaged``.
    """
    if not files.is_this_machine(root):
        return False  # only mounts of the running machine are saved and restored
    plan = applied.load(Path(root))
    wipe = plan.root_wipe() if plan is not None else None
    return wipe is not None and wipe.load().has_base


def end(root: str, log: Callable[[str], None]) -> None:
    """Complete or take back what a ``base run`` of the machine below *root* has left; *log* gets a
    line for each thing that is done.

    The caller holds ``plan.lock``. Raises ``EphemerootError`` if it cannot be ended. A base
    that is not where the plan says is reported to *log*: applying another plan repairs that.
    """
    if not is_possible(root):
        return
    # Imported here: most boots do not need it.
    from ephemeroot import backends
    from ephemeroot.base import change
    from ephemeroot.linux.namespace import Namespace
    from ephemeroot.old_roots import histories

    with ExitStack() as stack:
        try:
            private = stack.enter_context(Namespace())
            (keeper,) = histories.keepers(root, "/")
            bases = backends.of(keeper.wiper).bases(keeper.place, private, writable=True)
            found = stack.enter_context(bases)
        except Locked:
            raise
        except EphemerootError as error:
            log(f"cannot look for an interrupted 'base run': {error.message}")
            return
        change.recover(found, log)
