"""A writer for TOML values: the standard library only reads TOML (toml.io/en/v1.0.0)."""

from __future__ import annotations

from collections.abc import Iterable

_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def quote(text: str) -> str:
    """*text* as a basic string, with escapes where necessary.

    Raises ``UnicodeEncodeError`` for a text that is not UTF-8, such as a path in another encoding:
    TOML cannot contain it.
    """
    text.encode("utf-8")
    return '"' + "".join(_character(c) for c in text) + '"'


def _character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if ord(character) < 0x20 or ord(character) == 0x7F:
        return f"\\u{ord(character):04x}"
    return character


def array(items: Iterable[str]) -> str:
    """An array of items in TOML syntax, one on each line; ``[]`` if there are none."""
    lines = [f"  {item},\n" for item in items]
    return f"[\n{''.join(lines)}]" if lines else "[]"
