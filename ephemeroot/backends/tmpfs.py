"""The installed half of the tmpfs backend."""

from __future__ import annotations

from pathlib import Path

from ephemeroot.backends.contract import Backend, Rehearsal
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.machine.root import Root


class Tmpfs(Backend):
    """No machine is converted to it by ``init``: what it boots from must be built that way."""

    def rehearsal(self, wipe: Wipe, place: Root, root: Path, notes: list[str]) -> Rehearsal:
        return AsItIs(wipe, place, root, notes)


class AsItIs(Rehearsal):
    """What the boot makes is in memory as well."""

    def words(self, wipe: Wipe) -> list[str]:
        return ["root=tmpfs"]
