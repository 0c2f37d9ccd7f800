"""The Debian package is built by the tools of each Debian that it is for. Nothing boots here."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vm import package
from vm.cache import Cache
from vm.command import Unavailable

SUITES = (
    pytest.param("bookworm", marks=pytest.mark.proof),
    pytest.param("sid", marks=pytest.mark.unstable),
)


@pytest.mark.parametrize("suite", SUITES)
def test_other_releases_of_debian_build_the_package(cache: Cache, suite: str) -> None:
    """Without a boot: Debian 13 builds the package for the machines (test_package.py)."""
    selection = replace(package.BUILDER, suite=suite, stale=suite == "sid")
    try:
        built = package.binary_of(cache, selection)
    except Unavailable as error:
        pytest.skip(f"no Debian here: {error}")
    assert _files(built) == _files(package.binary(cache))


def _files(package: Path) -> set[str]:
    """The content of the package, without byte code and without the version in the metadata's
    folder.
    """
    done = subprocess.run(
        ["sh", "-ec", 'dpkg-deb --fsys-tarfile "$0" | tar -t', package],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {
        line
        for line in done.stdout.splitlines()
        if ".dist-info/" not in line and ".egg-info/" not in line
    }
