"""``ephemeroot where``: whether a path persists, why, and its content at the next boot."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.cli import access, output
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import Misconfigured
from ephemeroot.status.whereabouts import Whereabouts, find


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, access.NOTHING)
    parser.add_argument("path", metavar="PATH", help="a path, which may not exist")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: the path persists; 10: it does not."""
    text = arguments.path
    if not text:
        raise Misconfigured(
            "the path is empty", "name a file or directory; '.' is the current directory"
        )
    if arguments.root == "/" or text.startswith("/"):
        text = os.path.abspath(text)
    try:
        path = clean.absolute(text)
    except Mistake as mistake:
        raise Misconfigured(mistake.reason, mistake.hint) from None
    found = find(Path(arguments.root), path, arguments.config)
    if arguments.json:
        output.print_json("where", found.to_json())
    else:
        _show(found)
    return 0 if found.persists else output.PARTLY


def _show(found: Whereabouts) -> None:
    colour = terminal.GREEN if found.persists else terminal.YELLOW
    line = terminal.printable(f"{found.path} {found.verdict}")
    sys.stdout.write(terminal.paint(line, colour, sys.stdout) + "\n")
    terminal.table([list(row) for row in found.rows])
    if found.hint:
        terminal.say(f"  hint: {found.hint}")
