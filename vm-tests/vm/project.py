"""The project in a system: this checkout's wheel, and an administrator's configuration."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from vm import layer
from vm.cache import Cache
from vm.command import CommandFailed, Unavailable, run
from vm.layer import Content
from vm.system import System

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
# Not part of the program, some of it large.
_LEFT_OUT = (
    ".*",
    "build",
    "dist",
    "logs",
    "vm-tests",
    "tests",
    "bench",
    "__pycache__",
    "*.egg-info",
)


def wheel(cache: Cache, target: Path) -> Path:
    """`$EPHEMEROOT_WHEEL`, else the wheel of this checkout, built into the folder `target`.

    Nothing is downloaded: this Python must have pip and setuptools. Raises Unavailable if not.
    """
    named = os.environ.get("EPHEMEROOT_WHEEL")
    if named:
        return Path(named).absolute()
    with cache.scratch("sources") as scratch:
        # A copy: setuptools leaves a folder behind that later builds believe.
        sources = shutil.copytree(
            _CHECKOUT, scratch / "copy", ignore=shutil.ignore_patterns(*_LEFT_OUT)
        )
        pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
        offline = ["--no-index", "--no-deps", "--no-build-isolation"]
        try:
            run([*pip, *offline, "--wheel-dir", target, sources])
        except CommandFailed as error:
            raise Unavailable(f"the wheel cannot be built here: {error}") from error
    return next(target.glob("*.whl"))


def installed(cache: Cache, system: System, built: Path, files: Mapping[str, Content]) -> System:
    """The system with that wheel under its own python3, and those files (`etc/ephemeroot/…`)."""
    return system.on_top(layer.make(cache, wheel=built)).on_top(layer.make(cache, files=files))
