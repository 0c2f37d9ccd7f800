"""Writing TOML: the standard library only reads it (toml.io/en/v1.0.0)."""

from __future__ import annotations

from collections.abc import Iterable

_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def quote(text: str) -> str:
    """*text* as a basic string, whatever characters are in it.

    Raises ``UnicodeEncodeError`` for what is not a text (a path that is no UTF-8): TOML has no
    way to write it.
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
    """An array of items that are TOML already, one a line; ``[]`` if there are none."""
    lines = [f"  {item},\n" for item in items]
    return f"[\n{''.join(lines)}]" if lines else "[]"
