"""Printing for people: colour where there is a terminal, and no control characters."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_RED, _YELLOW, _BOLD = "31", "33", "1"


def has_colour(stream: TextIO) -> bool:
    """Whether *stream* shows colours and nobody asked it not to (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """*text* on one line: a path may hold newlines, escape sequences and broken UTF-8."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8 (surrogateescape)
        return f"\\x{number - 0xDC00:02x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(
        character, f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    )


def say(text: str = "") -> None:
    """Print a line to standard output."""
    sys.stdout.write(printable(text) + "\n")


def error(message: str, hint: str = "") -> None:
    """Print an error, and below it what to do next, to standard error."""
    _complain("error", _RED, message, hint)


def warning(message: str, hint: str = "") -> None:
    """Print a warning to standard error."""
    _complain("warning", _YELLOW, message, hint)


def _complain(word: str, colour: str, message: str, hint: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"ephemeroot: {paint(word + ':', colour, sys.stderr)} {printable(message)}\n")
    if hint:
        sys.stderr.write(f"  hint: {printable(hint)}\n")


def heading(text: str) -> str:
    """*text* so that it stands out."""
    return paint(text, _BOLD, sys.stdout)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """*text* in an ANSI colour if *stream* shows it."""
    return f"\x1b[{colour}m{text}\x1b[0m" if has_colour(stream) else text
