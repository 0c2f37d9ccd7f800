"""The output for programs, alike for all verbs: JSON on standard output, and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from ephemeroot.errors import EphemerootError, Locked, Misconfigured

DONE = 0
FAILED = EphemerootError.exit_code
MISCONFIGURED = Misconfigured.exit_code
"""The command line or the configuration is wrong; nothing is changed."""
LOCKED = Locked.exit_code
PARTLY = 10
"""Partly done; for a verb that only inspects, a problem was found."""
INTERRUPTED = 130
"""The status with which a shell reports SIGINT."""

VERSION = 1
"""The version of each document. A new key does not change it."""


def add_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--json`` to *parser*. With SUPPRESS, the default after the verb does not reset it."""
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for programs"
    )


def print_json(name: str, content: Mapping[str, object]) -> None:
    """Print *content* with its format and version. *name* is the verb, with the action after a
    hyphen if the actions of the verb have different documents.
    """
    write_json({"format": f"ephemeroot-{name}", "version": VERSION, **content})


def write_json(document: Mapping[str, object]) -> None:
    """Print a *document* as JSON."""
    import json  # takes 5 ms

    sys.stdout.write(json.dumps(document, indent=2) + "\n")
