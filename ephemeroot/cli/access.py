"""The places that a verb opens for writing, declared with its arguments.

The declaration decides whether the verb's mounts are read-only. The manual has the same text
(``tests/docs/test_manual.py``), and ``tests/cli/every_verb/test_verb_mounts.py`` traces the mounts
of every verb.
"""

from __future__ import annotations

import argparse

NOTHING = "nothing"


def declare(parser: argparse.ArgumentParser, writes: str) -> None:
    """Declare the places that the verb or action of *parser* opens for writing: ``NOTHING``, or
    the text of the manual.
    """
    parser.set_defaults(writes=writes)


def may_write(arguments: argparse.Namespace) -> bool:
    """Whether this run may write to the places that its verb declares; never in a dry run."""
    return bool(arguments.writes != NOTHING and not getattr(arguments, "dry_run", False))
