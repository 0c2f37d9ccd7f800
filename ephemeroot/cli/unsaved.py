"""``ephemeroot unsaved``: a line at login and at shutdown about what the next boot forgets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.cli import access, differences, output
from ephemeroot.linux import paths
from ephemeroot.old_roots.comparison import Difference
from ephemeroot.plan import foreign
from ephemeroot.status import forgotten

MOTD = "/run/motd.d/ephemeroot"
"""Shown at login by pam_motd(8)."""

_NAMED = 3  # the largest changes


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "/run/motd.d")
    parser.add_argument("--dry-run", action="store_true", help="only print the line")


def run(arguments: argparse.Namespace) -> int:
    """Print the line and write it for the next login; remove that without unsaved changes."""
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
    """One line about all of it, with the largest by name; empty for nothing."""
    if not found:
        return ""
    largest = sorted(found, key=lambda one: (-one.size, one.path))[:_NAMED]
    names = ", ".join(terminal.printable(one.path) for one in largest)
    more = ", …" if len(found) > len(largest) else ""
    return (
        f"ephemeroot: the next boot forgets {differences.summary(found)}: {names}{more} "
        "('ephemeroot diff' shows all)"
    )


def _write(path: Path, line: str) -> None:
    if not line:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.write_atomically(str(path), f"{line}\n".encode("utf-8", "surrogateescape"), 0o644)
