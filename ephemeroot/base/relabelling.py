"""SELinux labels of the files that a command has created in the copy of a base.

A package manager labels the files that it installs. Files that scripts create have the label of
their directory, or none if SELinux is off in this kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ephemeroot.backends.contract import Bases
from ephemeroot.machine.labelling import Labelling
from ephemeroot.machine.labels import Labels
from ephemeroot.old_roots.comparison import ADDED, CHANGED, DELETED, Comparison, Difference


def settle(opened: Bases, base: int, copy: int) -> None:
    """Label the files of the open *copy* that are new or changed since the open *base*, by the
    policy of the copy.
    """
    labels = Labels.of(f"/proc/self/fd/{copy}")
    if not labels.are_known:
        return
    opened.commit()
    touched = _Touched(related=True, changed_since=opened.changed_since(copy, base))
    labelling = Labelling(labels, copy)
    for one in list(touched.run(base, copy)):
        name = one.path.strip("/")
        if one.change == ADDED:
            labelling.settle_below(name)
        elif one.change != DELETED:
            labelling.settle([name])


class _Touched(Comparison):
    """All entries that were touched, even if their content is the same."""

    def _changed(
        self, old: int, new: int, path: str, was: os.stat_result, now: os.stat_result
    ) -> Iterator[Difference]:
        if (was.st_ino, was.st_ctime_ns) != (now.st_ino, now.st_ctime_ns):
            yield Difference(path, CHANGED, "file", 0)
