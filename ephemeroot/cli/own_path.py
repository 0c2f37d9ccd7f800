"""The option ``--program``: the path by which units and generators call this program."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from ephemeroot.errors import Misconfigured


def find(asked: str | None) -> str:
    """An absolute path that stays valid at the next login or kernel update: *asked* if given, else
    the path of the running program, else the one in PATH.

    Raises ``Misconfigured`` for a relative path, and if the program is not found.
    """
    if asked is not None:
        if not asked.startswith("/"):
            raise Misconfigured(
                f"--program {asked} is not an absolute path",
                f"use '--program {Path(asked).absolute()}'",
            )
        return asked
    running = Path(sys.argv[0])
    if running.name == "ephemeroot" and os.access(running, os.X_OK):
        return str(running.absolute())
    found = shutil.which("ephemeroot")
    if found is None:
        raise Misconfigured("the program ephemeroot is not in PATH", "add '--program PATH'")
    return found
