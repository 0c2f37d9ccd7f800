"""The installed half of the ZFS backend."""

from __future__ import annotations

from ephemeroot.backends.contract import Backend, Layout
from ephemeroot.backends.survey import Survey
from ephemeroot.backends.zfs import obstacles, proposal
from ephemeroot.errors import EphemerootError
from ephemeroot.machine.fstab import FstabLine
from ephemeroot.wipers.history import History
from ephemeroot.wipers.zfs.history import DatasetHistory


class Zfs(Backend):
    """See the contract for the methods."""

    @classmethod
    def proposal(cls, survey: Survey, line: FstabLine | None) -> Layout | None:
        return proposal.of(survey, line)

    def obstacles(self, history: History) -> list[EphemerootError]:
        return obstacles.look(history) if isinstance(history, DatasetHistory) else []
