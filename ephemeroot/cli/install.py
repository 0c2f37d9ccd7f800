"""``ephemeroot install``: install packages in the base, with ``--now`` in the running root too."""

from __future__ import annotations

import argparse

from ephemeroot.base.package_managers import INSTALL
from ephemeroot.cli import packages


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    packages.configure_packages(parser)


def run(arguments: argparse.Namespace) -> int:
    """See ``packages.run``."""
    return packages.run(arguments, INSTALL)
