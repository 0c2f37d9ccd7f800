"""One adoption as a step: it copies live data into a store.

The order of the steps makes it safe. The copy is made under a temporary name and verified; then the
path is declared; then one rename gives the copy its name in the store. After an interruption before
that rename, the store does not have the path and only the root has the data: the next boot seeds
it, or refuses to. After an interruption later, a record in the store notes that the root may be
newer, and the next run copies the difference.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.adopt import underway
from ephemeroot.adopt.candidate import Candidate
from ephemeroot.adopt.transfer import Transfer
from ephemeroot.config import replaced
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.hooks.store import unseeded
from ephemeroot.leave import leaving
from ephemeroot.leave.returning import bare_root
from ephemeroot.linux import copying, kernel
from ephemeroot.step import Step


@dataclass(slots=True)
class Adoption(Candidate, Step):
    """Adopt one path, which ``plan`` declares. With ``bind`` it is bound at once.

    ``execute`` raises ``EphemerootError``, which names the path; the next run completes an
    interrupted adoption.
    """

    plan: Plan = field(kw_only=True)
    bind: bool = False

    def describe(self) -> str:
        content = "undeclared content of " if self.inner and self.in_store else ""
        line = f"copy {content}{self.path} into {self.store} ({amounts.size(self.size)})"
        if self.declare is None:
            return line
        if not self.declare.method:
            return f"{line}, and declare it"
        known = replaced.find(self.path)
        why = "a link" if self.is_link else f"{known.by} replaces it" if known else ""
        return f'{line}, and declare it with method = "{self.declare.method}" ({why})'

    def execute(self) -> str:
        try:
            return self._execute()
        except OSError as error:
            raise _failed(self, error) from error

    def _execute(self) -> str:
        with ExitStack() as stack:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            folder = self.root / self.store.lstrip("/")
            store, bare = os.open(folder, flags), bare_root(self.root)
            stack.callback(os.close, bare)
            stack.callback(os.close, store)
            stage = self._stage(stack)
            stage.add_store(self.store, os.dup(store))
            transfer = Transfer(self, store, bare, stage)
            source = self.operation.source
            resumed = underway.is_recorded(folder, source, self.root)
            if self.in_store and (self.inner or resumed) and not self.replace:
                changed = transfer.merge()
            else:
                changed = transfer.copy()
            outcome = [transfer.amount()]
            if self.bind and not (self.in_store and self.inner) and transfer.bind():
                outcome.append("bound")
            stage.parents(self.store).remove(source)
            underway.forget(folder, source)
            unseeded.forget(store, self.store, source=source)
            kernel.sync_filesystem(store)
        self.problems += [
            f"{leaving.inside(self.path, name)} is not in the store: {reason}"
            for name, reason in transfer.left_out.items()
        ]
        if changed:
            names = amounts.listed(changed, 3)
            self.problems.append(
                f"{self.path} may be inconsistent in the store: {names} changed during the copy"
            )
        return " and ".join(filter(None, outcome))

    def _stage(self, stack: ExitStack) -> Stage:
        run = self.root / "run/ephemeroot" if self.root != Path("/") else Path("/run/ephemeroot")
        stage = Stage(
            self.plan,
            CommandLine(""),
            Report("adopt", None, "", boot=False),
            target=str(self.root),
            run=str(run),
            boot_id="",
        )
        stack.callback(stage.close)
        return stage


def _failed(adoption: Adoption, error: OSError) -> EphemerootError:
    """The error of an adoption that *error* has ended."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    name = f" ({place})" if place else ""
    if error.errno in copying.OF_A_DISK or error.errno == errno.EROFS:
        hint = "look for errors of the disks in the kernel log, and run the command again"
    else:
        hint = "remove the cause, and run the command again"
    return EphemerootError(
        f"cannot adopt {adoption.path} into {adoption.store}: {error.strerror or error}{name}", hint
    )
