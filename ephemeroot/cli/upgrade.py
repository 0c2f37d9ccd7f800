"""``ephemeroot upgrade``: upgrade all packages of the base."""

from __future__ import annotations

import argparse

from ephemeroot.base.package_managers import UPGRADE
from ephemeroot.cli import packages


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    packages.configure(parser)
    parser.add_argument(
        "--reboot", choices=("never", "if-needed"), default="never",
        help="reboot if the base has changed, or never (default: never)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """See ``packages.run``."""
    return packages.run(arguments, UPGRADE)
