"""The pager for long listings on a terminal, as in systemd and git."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from ephemeroot import terminal

_DEFAULT = "less"
_LESS = "FRX"
"""The options of less(1) unless ``LESS`` is set: exit if the output fits on the screen, show
colours, do not clear the screen.
"""


def command() -> list[str]:
    """The command in ``PAGER``, else less(1) if it is installed, else an empty list."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return []
    text = os.environ.get("PAGER")
    try:
        words = shlex.split(_DEFAULT if text is None else text)
    except ValueError:  # an unclosed quotation mark
        return []
    if not words or words == ["cat"] or shutil.which(words[0]) is None:
        return []
    return words


def run(listing: Callable[[], int]) -> int:
    """Show the output of *listing* in the pager, warnings included, and wait for the pager to exit.
    Returns the result of *listing*; 0 if the user quits the pager early.
    """
    words = command()
    if not words:
        return listing()
    environment = {"LESS": _LESS, **os.environ}
    if "SUDO_UID" in environment:  # else the user could run commands as root in less(1)
        environment.setdefault("LESSSECURE", "1")
    sys.stdout.flush()
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, env=environment)
    except OSError:
        return listing()
    assert process.stdin is not None
    streams = [1, 2] if sys.stderr.isatty() else [1]
    kept = [os.dup(number) for number in streams]
    terminal.paged = True
    try:
        for number in streams:
            os.dup2(process.stdin.fileno(), number)
        process.stdin.close()
        return listing()
    except BrokenPipeError:
        return 0
    finally:
        _discard()
        for number, old in zip(streams, kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        terminal.paged = False
        _wait(process)


def _discard() -> None:
    """Flush the rest of the output to the pager, or discard it if the pager has exited: it must not
    appear on the terminal later.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
        with suppress(OSError):
            sys.stdout.flush()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait until the user quits the pager. An interrupt goes to the pager, which continues."""
    while True:
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue
