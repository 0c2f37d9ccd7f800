"""What a verb opens for writing, declared beside its arguments.

The declaration decides whether the verb's mounts are read-only. It is in the manual, word for word
(``tests/docs/test_manual.py``), and ``tests/cli/every_verb/test_verb_mounts.py`` traces what every
verb really mounts.
"""

from __future__ import annotations

import argparse

NOTHING = "nothing"


def declare(parser: argparse.ArgumentParser, writes: str) -> None:
    """Declare what the verb or action of *parser* opens for writing: ``NOTHING``, or words for the
    manual.
    """
    parser.set_defaults(writes=writes)


def may_write(arguments: argparse.Namespace) -> bool:
    """Whether this run may open for writing what its verb declared; never in a dry run."""
    return bool(arguments.writes != NOTHING and not getattr(arguments, "dry_run", False))
