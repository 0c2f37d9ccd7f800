"""TOML that may be anything: what ``tomllib`` raises beside its own error is a mistake as well.

A file has at most ``LARGEST`` bytes, its tables and lists are nested at most ``DEEPEST`` times, and
numbers have 64 bits, as TOML asks of a parser (toml.io, v1.0.0, "Integer").
"""

from __future__ import annotations

import codecs
import re
import tomllib
from typing import Any

from ephemeroot.config.syntax.problem import Mistake

LARGEST = 1 << 20
DEEPEST = 32

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# A key of more parts than DEEPEST, for which tomllib takes quadratic time and memory.
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_.-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEEPEST},}}")


class SyntaxMistake(Mistake):
    """The document cannot be read; ``line`` is where."""

    def __init__(self, reason: str, line: int | None = None, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.line = line


def parse(content: bytes) -> tuple[dict[str, Any], str]:
    """The document in *content* and its text. Raises ``SyntaxMistake``, and nothing else."""
    if len(content) > LARGEST:
        raise SyntaxMistake(
            f"is larger than {LARGEST >> 20} MiB", hint="split it into files in conf.d"
        )
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if content.startswith(mark):
            raise SyntaxMistake(
                "begins with a byte order mark, which TOML does not allow",
                1,
                "save it as UTF-8 without a mark (BOM)",
            )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SyntaxMistake("is not UTF-8 text", line, "TOML files are UTF-8") from None
    if found := _LONG_KEY.search(text):
        raise _too_deep(text.count("\n", 0, found.start()) + 1)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # TOMLDecodeError, and of int() for more than 4,300 digits
        at = _PLACE.search(str(error))
        place: int | None = None
        if at and at[1]:
            place = int(at[1])
        elif isinstance(error, tomllib.TOMLDecodeError):
            place = text.rstrip().count("\n") + 1
        raise SyntaxMistake(f"is not valid TOML: {_PLACE.sub('', str(error))}", place) from None
    _check(document)
    return document, text


def _check(document: dict[str, Any]) -> None:
    """Raise ``SyntaxMistake`` for what is nested too deeply, and for numbers out of range."""
    level: list[Any] = [document]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise SyntaxMistake(
                    "has a number that does not fit into 64 bits", hint="write a smaller number"
                )
        level = inner
    if level:
        raise _too_deep()


def _too_deep(line: int | None = None) -> SyntaxMistake:
    return SyntaxMistake(
        f"is nested more than {DEEPEST} levels deep",
        line,
        "'man ephemeroot.toml' describes every table",
    )
