"""``ephemeroot upgrade``: the distribution's full upgrade, in the base."""

from __future__ import annotations

import argparse

from ephemeroot.base.package_managers import UPGRADE
from ephemeroot.cli import packages


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    packages.configure(parser)
    parser.add_argument(
        "--reboot", choices=("never", "if-needed"), default="never",
        help="if-needed: reboot if the base has changed (default: never)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """See ``packages.run``."""
    return packages.run(arguments, UPGRADE)
