"""What programs read of every verb: the JSON on standard output, and the exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from ephemeroot.errors import EphemerootError, Locked, Misconfigured

DONE = 0
FAILED = EphemerootError.exit_code
MISCONFIGURED = Misconfigured.exit_code
"""The command line or the configuration is wrong; nothing was done."""
LOCKED = Locked.exit_code
PARTLY = 10
"""Done in part; of a verb that only looks: what it looked at is not as it should be."""
INTERRUPTED = 130
"""As a shell reports SIGINT."""

VERSION = 1
"""Of each verb's document. A key that is added does not change it."""


def add_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Let *parser* take ``--json``, also after the verb; an earlier one stays in effect."""
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for programs"
    )


def print_json(name: str, content: Mapping[str, object]) -> None:
    """Print *content* with what tells programs how to read it; *name* is the verb's, with the
    action after a hyphen where its actions print different documents.
    """
    write_json({"format": f"ephemeroot-{name}", "version": VERSION, **content})


def write_json(document: Mapping[str, object]) -> None:
    """Print a *document* whose format is not ours to name."""
    import json  # 5 ms, which a verb that prints for people does not spend

    sys.stdout.write(json.dumps(document, indent=2) + "\n")
