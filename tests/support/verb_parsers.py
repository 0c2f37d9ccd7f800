"""Each command of the program with its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ephemeroot import cli
from ephemeroot.cli import arguments


def commands() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Each verb, with each of its actions (or ``""``), and the parser of its arguments."""
    for verb, parser in _children(arguments.parser(cli.VERBS)):
        actions = list(_children(parser))
        for action, inner in actions:
            yield verb, action, inner
        if not actions:
            yield verb, "", parser


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


COMMANDS = {" ".join(filter(None, (verb, action))): (verb, parser) for verb, action, parser in
            commands()}  # fmt: skip
