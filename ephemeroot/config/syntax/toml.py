"""A TOML parser for arbitrary input: every exception of ``tomllib`` is a ``SyntaxMistake``.

A file has at most ``LARGEST`` bytes, its tables and lists are nested at most ``DEEPEST`` times, and
numbers have 64 bits, as TOML requires (toml.io, v1.0.0, "Integer").
"""

from __future__ import annotations

import codecs
import re
import tomllib
from typing import Any

from ephemeroot.config.syntax import lines
from ephemeroot.config.syntax.problem import Mistake

LARGEST = 1 << 20
DEEPEST = 32

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# A key with more parts than DEEPEST, for which tomllib needs quadratic time and memory.
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_.-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEEPEST},}}")
# The number of digits that int() always accepts (sys.int_info).
_LONG_NUMBER = re.compile(r"[0-9](?:_?[0-9]){639}")
_TUPLE = re.compile(r"\('(.+?)',?\)")

# The beginnings of the messages of tomllib, each with a hint.
_HINTS = (
    ("Cannot declare", "write each table once"),
    ("Cannot overwrite", "write each key once"),
    ("Cannot mutate", "write each table once"),
    ("Cannot", "write each key and each table once"),
    ("Invalid value", 'write text in quotes: key = "value"'),
    ("Unclosed array", "close the list with ]"),
    ("Unclosed inline table", "close the table with }, on the same line"),
    ("Unterminated string", "close the text with the quote that it begins with"),
    ("Illegal character", "close the text with the quote that it begins with"),
    ("Unescaped '\\'", "write a backslash as \\\\, or the text in single quotes"),
    ("Expected newline", "write one statement on each line; comments begin with #"),
    ("Expected", "write key = value or [table]; comments begin with #"),
    ("Invalid", "write key = value or [table]; comments begin with #"),
)


class SyntaxMistake(Mistake):
    """The document is not valid; ``line`` is the place of the error."""

    def __init__(self, reason: str, line: int | None = None, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.line = line


def parse(content: bytes) -> tuple[dict[str, Any], str]:
    """The document in *content* and its text. Raises only ``SyntaxMistake``."""
    if len(content) > LARGEST:
        raise SyntaxMistake(
            f"the file is larger than {LARGEST >> 20} MiB", hint="split it into files in conf.d"
        )
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if content.startswith(mark):
            raise SyntaxMistake(
                "the file begins with a byte order mark, which TOML does not allow",
                1,
                "save it as UTF-8 without a byte order mark (BOM)",
            )
    if (null := content.find(b"\0")) >= 0:
        raise SyntaxMistake(
            "the file contains NUL bytes",
            content.count(b"\n", 0, null) + 1,
            "save it as UTF-8 (UTF-16 and an interrupted write contain NUL bytes)",
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SyntaxMistake("the file is not UTF-8 text", line, "save it as UTF-8") from None
    if found := _LONG_KEY.search(text):
        raise _too_deep(text.count("\n", 0, found.start()) + 1)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise _too_deep(_deep_line(text)) from None
    except tomllib.TOMLDecodeError as error:
        raise _invalid(str(error), text) from None
    except ValueError:  # of int()
        found = _LONG_NUMBER.search(text)
        raise _too_large(text.count("\n", 0, found.start()) + 1 if found else None) from None
    _check(document, text)
    return document, text


def _invalid(message: str, text: str) -> SyntaxMistake:
    at = _PLACE.search(message)
    line = int(at[1]) if at and at[1] else text.rstrip().count("\n") + 1
    reason = _PLACE.sub("", message)
    hint = next((hint for begin, hint in _HINTS if reason.startswith(begin)), "")
    shown = _TUPLE.sub(lambda keys: f"`{keys[1].replace(chr(39) + ', ' + chr(39), '.')}`", reason)
    hint = hint or "see 'man ephemeroot.toml'"
    return SyntaxMistake(f"the file is not valid TOML: {shown}", line, hint)


def _check(document: dict[str, Any], text: str) -> None:
    """Raise ``SyntaxMistake`` for too deep nesting, and for numbers out of range."""
    level: list[tuple[lines.KeyPath, Any]] = [((), document)]
    for _ in range(DEEPEST + 1):
        inner: list[tuple[lines.KeyPath, Any]] = []
        for path, value in level:
            if isinstance(value, dict):
                inner += (((*path, key), item) for key, item in value.items())
            elif isinstance(value, list):
                inner += (((*path, index), item) for index, item in enumerate(value))
            elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise _too_large(lines.locate(text).get(path))
        level = inner
    if level:
        raise _too_deep(_deep_line(text) or lines.locate(text).get(level[0][0]))


def _deep_line(text: str) -> int | None:
    """The line of the first bracket that is nested too deeply."""
    # Compiled here, because only an error needs it.
    strings = (pattern.pattern for pattern in lines.STRINGS)
    tokens = re.compile("|".join((r"#[^\n]*", *strings, r"[\[\]{}]")), re.DOTALL)
    depth = 0
    for found in tokens.finditer(text):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if depth > DEEPEST:
            return text.count("\n", 0, found.start()) + 1
    return None


def _too_large(line: int | None) -> SyntaxMistake:
    return SyntaxMistake(
        "the file has a number that does not fit into 64 bits", line, "write a smaller number"
    )


def _too_deep(line: int | None = None) -> SyntaxMistake:
    return SyntaxMistake(
        f"the file is nested more than {DEEPEST} levels deep",
        line,
        "see 'man ephemeroot.toml' for all tables",
    )
