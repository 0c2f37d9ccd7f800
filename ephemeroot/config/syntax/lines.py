"""The line of each key of a TOML document.

``tomllib`` keeps no positions. This module walks through a document that ``tomllib`` has accepted,
so the syntax is known to be valid (toml.io, v1.0.0).
"""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_OTHER = re.compile(r"[^,\]}#\n]+")


def locate(text: str) -> dict[KeyPath, int]:
    """Map each key path of the valid document *text* to its line, counted from 1.

    Paths are keys and list positions: ``("volumes", 0, "device")``. The line of an implicit table
    is that of the first header that contains it.
    """
    return _Walk(text).document()


class _Walk:
    """One pass through one document."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.position = 0
        self.counted = 0
        self.line = 1
        self.lines: dict[KeyPath, int] = {}
        self.counts: dict[KeyPath, int] = {}

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text.startswith("[[", self.position):
                table = self._header(2)
            elif self.text[self.position] == "[":
                table = self._header(1)
            else:
                self._assignment(table)
        return self.lines

    def _header(self, brackets: int) -> KeyPath:
        line = self._line()
        self.position += brackets
        path: KeyPath = ()
        keys = self._keys()
        self.position += brackets
        for number, key in enumerate(keys):
            path = (*path, key)
            last = number == len(keys) - 1
            self.lines.setdefault(path, line)
            if last and brackets == 2:
                self.counts[path] = self.counts.get(path, -1) + 1
            if path in self.counts:  # a header below an array of tables is in its last table
                path = (*path, self.counts[path])
                self.lines.setdefault(path, line)
        return path

    def _assignment(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.position += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self.text[self.position] in "\"'":
                keys.append(_unquote(self._string()))
            else:
                keys.append(self._take(_BARE))
            self._skip(_SPACE)
            if self.text[self.position] != ".":
                return keys
            self.position += 1

    def _value(self, path: KeyPath) -> None:
        first = self.text[self.position]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._take(_OTHER)

    def _array(self, path: KeyPath) -> None:
        self.position += 1
        index = 0
        while self.text[self._skip(_BLANK)] != "]":
            self.lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
            if self.text[self._skip(_BLANK)] == ",":
                self.position += 1
        self.position += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.position += 1
        while self.text[self._skip(_BLANK)] != "}":
            self._assignment(path)
            if self.text[self._skip(_BLANK)] == ",":
                self.position += 1
        self.position += 1

    def _string(self) -> str:
        for pattern in STRINGS:
            if pattern.match(self.text, self.position):
                return self._take(pattern)
        raise AssertionError("the document was not valid TOML")

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.position)
        assert found is not None, "the document was not valid TOML"
        self.position = found.end()
        return found[0]

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self.position

    def _line(self) -> int:
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line


def _unquote(quoted: str) -> str:
    return str(tomllib.loads(f"key = {quoted}")["key"])
