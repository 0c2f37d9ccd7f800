"""Long listings on a terminal go through a pager, as those of systemd and git do."""

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
"""The options of less(1) unless ``LESS`` has others: what fits on the screen is printed, colours
are shown, and the screen is not cleared.
"""


def command() -> list[str]:
    """The program of ``PAGER``, else less(1) if it is installed; empty for none."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return []
    text = os.environ.get("PAGER")
    try:
        words = shlex.split(_DEFAULT if text is None else text)
    except ValueError:  # a quotation mark without its counterpart
        return []
    if not words or words == ["cat"] or shutil.which(words[0]) is None:
        return []
    return words


def run(listing: Callable[[], int]) -> int:
    """Show what *listing* prints through the pager, warnings included, wait for the pager's end,
    and return what *listing* returns; 0 if the user has left the pager before that.
    """
    words = command()
    if not words:
        return listing()
    environment = {"LESS": _LESS, **os.environ}
    if "SUDO_UID" in environment:  # less(1) runs commands that its user types
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
    """Write what is left, unless the pager has gone: it must not appear on the terminal later."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
        with suppress(OSError):
            sys.stdout.flush()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Until its user leaves it: an interrupt is for the pager, which continues."""
    while True:
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue
