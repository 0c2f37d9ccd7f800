"""The command line: a module for each verb.

A verb has a line in ``verbs.VERBS``, and its module ``configure(parser)`` and
``run(arguments) -> int``. ``arguments`` has ``root``, ``config`` and ``json`` besides
the verb's own. Errors are raised; only ``main`` prints them.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from ephemeroot import postponed
from ephemeroot.cli import arguments, output
from ephemeroot.cli.verbs import PLUMBING, VERBS
from ephemeroot.errors import EphemerootError

__all__ = ["PLUMBING", "VERBS", "main", "program"]


def program() -> NoReturn:
    """Be the installed command: run the program and end this process with its exit code.

    A short verb uses all that it loads until its end: the search for garbage is rare, and the
    interpreter is not taken apart, which would take a tenth of the verb's time. Functions that are
    registered with ``atexit`` run, and threads are waited for.
    """
    gc.set_threshold(100_000)
    _have_standard_streams()
    if os.geteuid() == 0:
        # All users may read the files of the system, and only root may write to them, also where
        # root has another umask. sudo(8) does the same. Private files get their mode explicitly.
        os.umask(0o022)
    code = main()
    if "threading" in sys.modules:
        sys.exit(code)
    atexit._run_exitfuncs()
    with suppress(OSError):  # its reader has gone
        sys.stderr.flush()
    os._exit(code)


def _have_standard_streams() -> None:
    """Have /dev/null for each standard stream that this process was started without."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    from ephemeroot.linux import paths

    paths.have_standard_streams()
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code, 1 too if its output could not be written.

    0 done, 1 failed, 2 wrong usage or configuration, 3 locked by another run, 10 partly
    done, 130 interrupted. Foreseen errors are printed; anything else is a bug and keeps
    its traceback.
    """
    postponed.install()
    _allow_every_character()
    code = output.FAILED
    try:
        code = _outcome(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # who read it has gone, and knows
            _say_error(f"standard output: {error.strerror}")
        # Nothing is left that Python would write, and complain of, while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or output.FAILED
    return code


def _outcome(words: Sequence[str]) -> int:
    complain = _complain_as_json if "--json" in words else _complain
    try:
        return _run(words)
    except EphemerootError as error:
        complain(error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        complain(_missing_module(error))
        return output.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(EphemerootError(f"{where}{error.strerror or error}", _permission_hint(error)))
        return output.FAILED
    except KeyboardInterrupt as interruption:
        step = str(interruption)  # see ``execution.Interrupted``
        _say_error(f"interrupted: {step}" if step else "interrupted")
        return output.INTERRUPTED


def _missing_module(error: ModuleNotFoundError) -> EphemerootError:
    """What installs another project's module. Raises *error* for any other: that is a bug."""
    from ephemeroot.machine import python_modules

    name = error.name or ""
    if not python_modules.is_known(name):
        raise error
    return EphemerootError(
        f"the Python module {name} is not installed", python_modules.how_to_install(name)
    )


def _allow_every_character() -> None:
    """A locale may lack a character, a hyphen of Ephemeroot's or a letter of a path: say it
    otherwise.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _say_error(message: str, hint: str = "") -> None:
    from ephemeroot import terminal  # --help and --version have no use for it

    terminal.error(message, hint)


def _complain(error: EphemerootError) -> None:
    # Not for everybody: a unit that runs at every boot has no use for the configuration.
    from ephemeroot import terminal
    from ephemeroot.config import InvalidConfiguration

    if not isinstance(error, InvalidConfiguration):
        terminal.error(error.message, error.hint)
        return
    terminal.problems(error.problems, sys.stderr)


def _complain_as_json(error: EphemerootError) -> None:
    """On standard output, where a program looks for it."""
    from ephemeroot.config import InvalidConfiguration

    found: dict[str, object] = {
        "exit-code": error.exit_code,
        "error": error.message,
        "hint": error.hint,
    }
    if isinstance(error, InvalidConfiguration):
        found["problems"] = [problem.to_json() for problem in error.problems]
    output.print_json("error", found)


def _run(words: Sequence[str]) -> int:
    if words[:1] == ["help"]:
        words = [*(word for word in words[1:] if word != "help"), "--help"]
    try:
        found = arguments.parser().parse_args(words)
    except SystemExit as exit_:  # --help and --version
        return exit_.code if isinstance(exit_.code, int) else 0
    if found.json or not getattr(found, "paged", False) or not sys.stdout.isatty():
        return int(found.run(found))
    from ephemeroot.cli import pager

    return pager.run(lambda: int(found.run(found)))


def _permission_hint(error: OSError) -> str:
    return "run it as root" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""
