"""``ephemeroot init``: propose a configuration for this machine, and list the remaining steps."""

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
    """Print the proposal. Changes nothing."""
    proposed = proposal.of(survey.of(arguments.root))
    if arguments.json:
        _print_json(proposed)
        return 0
    sys.stdout.write(proposed.text())
    if not sys.stdout.isatty():
        # Redirected into a file, so the steps are not on the screen.
        sys.stderr.write(
            "ephemeroot: the remaining steps are comments at the end of the configuration\n"
        )
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
