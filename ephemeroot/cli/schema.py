"""``ephemeroot schema``: print the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import argparse

from ephemeroot.cli import access, output
from ephemeroot.config.schema import schema


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""
    access.declare(parser, access.NOTHING)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    output.write_json(schema())
    return 0
