"""The project in a system: this checkout's package, and an administrator's configuration.

Machines get the Debian package, like users. The wheel is only for tests of the wheel.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from vm import layer, package
from vm.cache import Cache
from vm.command import CommandFailed, Unavailable, run
from vm.layer import Content
from vm.system import System

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
# Not part of the program, and partly large.
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


def debian_package(cache: Cache) -> Path:
    """`$EPHEMEROOT_PACKAGE` (a .deb or a .whl), otherwise the .deb of this checkout.

    Raises Unavailable if it cannot be built here.
    """
    named = os.environ.get("EPHEMEROOT_PACKAGE")
    return Path(named).absolute() if named else package.binary(cache)


def wheel(cache: Cache, target: Path) -> Path:
    """`$EPHEMEROOT_WHEEL`, otherwise the wheel of this checkout, built into the folder `target`.

    Nothing is downloaded: this Python must have pip and setuptools. Raises Unavailable if not.
    """
    named = os.environ.get("EPHEMEROOT_WHEEL")
    if named:
        return Path(named).absolute()
    with cache.scratch("sources") as scratch:
        # A copy: setuptools leaves a folder that later builds would use.
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
    """The system with that .deb or .whl, and those files (`etc/ephemeroot/…`)."""
    if built.suffix == ".whl":
        setup = "ephemeroot setup dracut && ephemeroot setup mkinitcpio"
        with_wheel = system.on_top(layer.make(cache, wheel=built))
        with_project = with_wheel.changed_by(cache, "sh", "-c", setup)
    else:
        with_project = package.installed(cache, system, built)
    return with_project.on_top(layer.make(cache, files=files))
