"""The command line: a module for each verb.

A verb's module has ``NAME``, ``HELP``, ``configure(parser)`` and
``run(arguments) -> int``. ``arguments`` has ``root``, ``config`` and ``json`` besides
the verb's own. Errors are raised; only ``main`` prints them.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from ephemeroot import __version__
from ephemeroot.cli import terminal
from ephemeroot.errors import EphemerootError, Misconfigured

VERBS = (
    "init", "check", "plan", "rehearse", "apply", "status", "diff", "roots", "adopt", "next-boot",
    "base", "leave", "setup", "home", "copyback", "image", "lived", "schema",
)  # fmt: skip
"""Modules of this package (with ``_`` for ``-``), in the order of the help."""

PLUMBING = ("copyback", "image", "lived", "schema")
"""Called by other programs; the help does not list them."""

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, and takes no abbreviations: a new option must not change what an
    old command line means.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        raise Misconfigured(message, f"see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code, 1 too if its output could not be written.

    0 done, 1 failed, 2 wrong usage or configuration, 3 locked by another run, 10 partly
    done, 130 interrupted. Foreseen errors are printed; anything else is a bug and keeps
    its traceback.
    """
    _allow_every_character()
    code = 1
    try:
        code = _outcome(argv)
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # who read it has gone, and knows
            terminal.error(f"standard output: {error.strerror}")
        # Nothing is left that Python would write, and complain of, while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _outcome(argv: Sequence[str] | None) -> int:
    try:
        return _run(argv)
    except EphemerootError as error:
        _complain(error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        terminal.error(f"{where}{error.strerror or error}", _permission_hint(error))
        return 1
    except KeyboardInterrupt:
        terminal.error("interrupted")
        return INTERRUPTED


def _allow_every_character() -> None:
    """A locale may lack a character, a hyphen of ours or a letter of a path: say it otherwise."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _complain(error: EphemerootError) -> None:
    # Not for everybody: a unit that runs at every boot has no use for the configuration.
    from ephemeroot.config import InvalidConfiguration

    if not isinstance(error, InvalidConfiguration):
        terminal.error(error.message, error.hint)
        return
    for problem in error.problems:
        complain = terminal.warning if problem.warning else terminal.error
        complain(f"{problem.place}: {problem.reason}", problem.hint)


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    # Only the verb that is asked for is imported: each brings its part of the program.
    parser = _parser(words[:1] if words[:1] and words[0] in VERBS else VERBS)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as exit_:  # --help and --version
        return exit_.code if isinstance(exit_.code, int) else 0
    return int(arguments.run(arguments))


def _permission_hint(error: OSError) -> str:
    return "run it as root" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="ephemeroot", description="A root that is new at every boot.")
    parser.add_argument("--version", action="version", version=f"ephemeroot {__version__}")
    parser.set_defaults(config=None, root="/", json=False)
    _add_common(parser)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    for module in _modules(names):
        listed = {} if module.NAME in PLUMBING else {"help": module.HELP}
        verb = verbs.add_parser(module.NAME, description=module.HELP, **listed)
        _add_common(verb)
        module.configure(verb)
        verb.set_defaults(run=module.run)
    return parser


def _modules(names: Sequence[str]) -> list[ModuleType]:
    """The verbs that are installed: a distribution may leave some to another package."""
    found = []
    for name in names:
        full = f"{__name__}.{name.replace('-', '_')}"
        try:
            found.append(import_module(full))
        except ModuleNotFoundError as error:
            if error.name != full:
                raise
    return found


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options that may stand before and after the verb (SUPPRESS: the later must not reset
    the earlier).
    """
    group = parser.add_argument_group("for every verb")
    group.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="read this configuration only (default: /etc/ephemeroot/ephemeroot.toml "
        "and its drop-ins)",
    )
    group.add_argument(
        "--root",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="act for the machine whose root is DIR (default: this one)",
    )
    group.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for programs"
    )
