"""The installed half of the btrfs backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.backends.btrfs import proposal
from ephemeroot.backends.contract import Backend, Bases, Layout, Rehearsal
from ephemeroot.backends.survey import Survey
from ephemeroot.errors import Misconfigured
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.fstab import FstabLine
from ephemeroot.machine.root import Root


class Btrfs(Backend):
    """See the contract for the methods."""

    @classmethod
    def proposal(cls, survey: Survey, line: FstabLine | None) -> Layout | None:
        return proposal.of(survey, line) if survey.type == "btrfs" else None

    def omitted(self, fd: int) -> list[str]:
        from ephemeroot.backends.btrfs import nested

        return nested.omitted(fd)

    def rehearsal(self, wipe: Wipe, place: Root, root: Path, notes: list[str]) -> Rehearsal:
        from ephemeroot.backends.btrfs.rehearsal import Snapshots

        return Snapshots(wipe, place, root, notes)

    @contextmanager
    def bases(self, place: Root, private: Namespace, *, writable: bool) -> Iterator[Bases]:
        from ephemeroot.backends.btrfs.bases import Place, opened

        if place.device is None:
            raise Misconfigured(
                "the root's device is named neither in the configuration nor on the kernel command "
                "line",
                "set device in [root.btrfs]",
            )
        with opened(
            Place.of(self.wiper, place.device, place.subvolume), private, writable=writable
        ) as found:
            yield found
