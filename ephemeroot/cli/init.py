"""``ephemeroot init``: a configuration for this machine, and what is left to do."""

from __future__ import annotations

import argparse
import sys

from ephemeroot.backends import survey
from ephemeroot.cli import access, output
from ephemeroot.init import proposal, steps
from ephemeroot.init.proposal import Proposal


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""
    access.declare(parser, access.NOTHING)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: printed. Nothing is ever changed."""
    proposed = proposal.of(survey.of(arguments.root))
    if arguments.json:
        _print_json(proposed)
        return 0
    sys.stdout.write(proposed.text())
    if not sys.stdout.isatty():
        # Redirected into the file: the steps are in it, and not on the screen.
        sys.stderr.write("ephemeroot: the remaining steps are comments at its end\n")
    return 0


def _print_json(proposed: Proposal) -> None:
    content = {
        "wiper": proposed.layout.wiper,
        "store": proposed.layout.store,
        "configuration": proposed.configuration,
        "again-after-reboot": steps.continues_after_reboot(proposed.steps),
        "steps": [{"title": s.title, "commands": list(s.commands)} for s in proposed.steps],
    }
    output.print_json("init", content)
