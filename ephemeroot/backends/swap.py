"""Swap files that are in the root: where they go before a root is made fresh."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ephemeroot.backends.survey import Survey
from ephemeroot.machine import swap


def files(survey: Survey) -> Iterator[tuple[str, int]]:
    """Path and size of each swap file on the root itself."""
    root = os.open(survey.machine.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = swap.files(root)
    finally:
        os.close(root)
    for path in found:
        if not survey.is_on_volume(path):
            yield path, os.stat(os.path.join(survey.machine.root, path.lstrip("/"))).st_size
