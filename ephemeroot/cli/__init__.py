"""The command line: a module for each verb.

A verb has a line in ``verbs.VERBS``. Its module has ``configure(parser)`` and
``run(arguments) -> int``. ``arguments`` has ``root``, ``config`` and ``json`` in addition to the
verb's own arguments. Verbs raise errors; only ``main`` prints them.
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
    """The installed command: run the program and exit with its exit code.

    A verb is short and keeps most objects until its end. So garbage collection is rare, and the
    process exits without the finalisation of the interpreter, which would take a tenth of the
    verb's time. Functions registered with ``atexit`` run, and threads are joined.
    """
    gc.set_threshold(100_000)
    _have_standard_streams()
    if os.geteuid() == 0:
        # Files of the system are readable by all users and writable by root, whatever umask root
        # has. sudo(8) does the same. Private files get their mode explicitly.
        os.umask(0o022)
    code = main()
    if "threading" in sys.modules:
        sys.exit(code)
    atexit._run_exitfuncs()
    with suppress(OSError):  # the reader has closed the pipe
        sys.stderr.flush()
    os._exit(code)


def _have_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed at the start."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    from ephemeroot.linux import paths

    paths.have_standard_streams()
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; 1 also if its output cannot be written.

    0 done, 1 failed, 2 wrong usage or configuration, 3 locked by another run, 10 partly
    done, 130 interrupted. Expected errors are printed; any other exception is a bug and keeps
    its traceback.
    """
    postponed.install()
    _allow_every_character()
    code = output.FAILED
    try:
        code = _outcome(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # the reader has closed the pipe on purpose
            _print_error(f"cannot write to standard output: {error.strerror}")
        # Python writes the rest of the output at its exit, and would report another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or output.FAILED
    return code


def _outcome(words: Sequence[str]) -> int:
    report = _report_as_json if "--json" in words else _report
    try:
        return _run(words)
    except EphemerootError as error:
        report(error)
        return error.exit_code
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        report(_missing_module(error))
        return output.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        report(EphemerootError(f"{where}{error.strerror or error}", _permission_hint(error)))
        return output.FAILED
    except KeyboardInterrupt as interruption:
        step = str(interruption)  # see ``execution.Interrupted``
        _print_error(f"interrupted: {step}" if step else "interrupted")
        return output.INTERRUPTED


def _missing_module(error: ModuleNotFoundError) -> EphemerootError:
    """The error for a missing module of another project, with the command that installs it. Raises
    *error* for any other module: that is a bug.
    """
    from ephemeroot.machine import python_modules

    name = error.name or ""
    if not python_modules.is_known(name):
        raise error
    return EphemerootError(
        f"the Python module {name} is not installed", python_modules.how_to_install(name)
    )


def _allow_every_character() -> None:
    """Escape characters that the locale lacks, for example in a path."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _print_error(message: str, hint: str = "") -> None:
    from ephemeroot import terminal  # --help and --version do not need it

    terminal.error(message, hint)


def _report(error: EphemerootError) -> None:
    # Imported only after an error: the units that run at every boot read no configuration.
    from ephemeroot import terminal
    from ephemeroot.config import InvalidConfiguration

    if not isinstance(error, InvalidConfiguration):
        terminal.error(error.message, error.hint)
        return
    terminal.problems(error.problems, sys.stderr)


def _report_as_json(error: EphemerootError) -> None:
    """Print *error* to standard output as the JSON document of the run."""
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
