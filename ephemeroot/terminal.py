"""Output for people: colours on a terminal, and no control characters."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, TextIO

RED, GREEN, YELLOW = "31", "32", "33"

_BOLD = "1"

paged = False
"""Whether the output goes to a pager on the terminal."""


class Problem(Protocol):
    """A problem of a configuration, such as ``ephemeroot.config.Problem``."""

    @property
    def place(self) -> object:
        """Its place: ``str`` gives file, line and key."""

    @property
    def reason(self) -> str:
        """One line."""

    @property
    def hint(self) -> str:
        """One line; may be empty."""

    @property
    def warning(self) -> bool:
        """Whether the configuration is usable despite it."""


def has_colour(stream: TextIO) -> bool:
    """Whether *stream* shows colours and the environment does not forbid it (no-color.org)."""
    on_terminal = paged or stream.isatty()
    return on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """*text* on one line: a path may contain newlines, escape sequences and invalid UTF-8."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8 (surrogateescape)
        return f"\\x{number - 0xDC00:02x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(
        character, f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    )


def say(text: str = "") -> None:
    """Print a line to standard output."""
    sys.stdout.write(printable(text) + "\n")


def error(message: str, hint: str = "") -> None:
    """Print an error, and its hint on the next line, to standard error."""
    _print("error", RED, message, hint)


def warning(message: str, hint: str = "") -> None:
    """Print a warning, and its hint on the next line, to standard error."""
    _print("warning", YELLOW, message, hint)


def _print(word: str, colour: str, message: str, hint: str) -> None:
    with suppress(OSError):  # main reports it
        sys.stdout.flush()
    sys.stderr.write(f"ephemeroot: {paint(word + ':', colour, sys.stderr)} {printable(message)}\n")
    if hint:
        sys.stderr.write(f"  hint: {printable(hint)}\n")


def problems(found: Iterable[Problem], stream: TextIO) -> None:
    """Print the problems of a configuration in the form that all verbs use, each with its hint on
    the next line.
    """
    with suppress(OSError):  # main reports it
        sys.stdout.flush()
    for problem in found:
        word, colour = ("warning", YELLOW) if problem.warning else ("error", RED)
        line = printable(f"{problem.place}: {problem.reason}")
        stream.write(f"{paint(word + ':', colour, stream)} {line}\n")
        if problem.hint:
            stream.write(f"  hint: {printable(problem.hint)}\n")


def heading(text: str) -> str:
    """*text* in bold."""
    return paint(text, _BOLD, sys.stdout)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """*text* in an ANSI colour if *stream* shows it."""
    return f"\x1b[{colour}m{text}\x1b[0m" if has_colour(stream) else text


def count(number: int, one: str, many: str = "") -> str:
    """*number* of something: ``1 entry``, ``2 entries``. *many* is *one* with an s if not given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A span of time with a unit: ``0.4 s``, ``12 s``, ``5 min``, ``3 h``, ``12 days``."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def moment(seconds: float) -> str:
    """A point in time, in seconds since 1970, as local time with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def table(
    rows: Sequence[Sequence[str]],
    *,
    right: Container[int] = (),
    indent: int = 2,
    colours: Sequence[str] = (),
) -> None:
    """Print *rows* in aligned columns; those numbered in *right* are aligned to the right.

    A cell may contain any text: it is printed on one line. The last column is not padded.
    *colours* has a colour for each row; an empty one is the terminal's default.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [
        max((_width(row[column]) for row in cells if column < len(row)), default=0)
        for column in range(columns)
    ]
    for number, row in enumerate(cells):
        parts = []
        for column, cell in enumerate(row):
            space = " " * (widths[column] - _width(cell))
            parts.append(space + cell if column in right else cell + space)
        line = "  ".join(parts).rstrip()
        if colours and colours[number]:
            line = paint(line, colours[number], sys.stdout)
        sys.stdout.write(" " * indent + line + "\n")


def _width(text: str) -> int:
    """The width of *text* on a terminal: East Asian characters have two columns, accents none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
