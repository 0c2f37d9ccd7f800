"""``ephemeroot unsaved``: a line at login and at shutdown about changes that are not persistent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ephemeroot import amounts, terminal
from ephemeroot.cli import access, differences, output
from ephemeroot.linux import paths
from ephemeroot.old_roots.comparison import Difference
from ephemeroot.plan import foreign
from ephemeroot.status import forgotten

MOTD = "/run/motd.d/ephemeroot"
"""pam_motd(8) shows this file at login."""

_NAMED = 3
"""The number of changes that the line names, the largest first."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "/run/motd.d")
    parser.add_argument("--dry-run", action="store_true", help="only print the line")


def run(arguments: argparse.Namespace) -> int:
    """Print the line and write it for the next login; without such changes, remove the file."""
    found: list[Difference] = []
    if foreign.of_boot(Path(arguments.root)) is None:
        found = forgotten.look(arguments.root, everything=False)
    line = describe(found)
    if not arguments.dry_run:
        _write(Path(arguments.root) / MOTD.lstrip("/"), line)
    if arguments.json:
        content = {
            "line": line or None,
            "differences": differences.to_json(found),
        }
        output.print_json("unsaved", content)
    elif line:
        terminal.say(line)
    return 0


def describe(found: Sequence[Difference]) -> str:
    """One line with the number of changes and the names of the largest; empty without changes."""
    if not found:
        return ""
    largest = sorted(found, key=lambda one: (-one.size, one.path))
    names = amounts.listed([terminal.printable(one.path) for one in largest], _NAMED)
    return (
        f"ephemeroot: the next boot forgets {differences.summary(found)}: {names} "
        "(run 'ephemeroot diff' to see all)"
    )


def _write(path: Path, line: str) -> None:
    if not line:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.write_atomically(str(path), f"{line}\n".encode("utf-8", "surrogateescape"), 0o644)
