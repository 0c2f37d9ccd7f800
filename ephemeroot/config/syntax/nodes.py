"""Parsed documents with the place of each value, and their merge.

Tables are merged key by key, lists are concatenated, and of other values the last one takes effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ephemeroot.config.syntax.lines import KeyPath
from ephemeroot.config.syntax.problem import Place

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(slots=True)
class Node:
    """A value and its ``place``.

    ``value`` is a ``dict`` or ``list`` of nodes, or a single value from ``tomllib``.
    ``overridden`` are the values that it has replaced; they must be valid too.
    """

    value: object
    place: Place
    overridden: list[Node] = field(default_factory=list)

    def table(self) -> dict[str, Node] | None:
        """The keys and values if this is a table, else ``None``."""
        return self.value if isinstance(self.value, dict) else None

    def items(self) -> list[Node] | None:
        """The items if this is a list, else ``None``."""
        return self.value if isinstance(self.value, list) else None


def load(document: Mapping[str, object], file: str, lines: Mapping[KeyPath, int]) -> Node:
    """Wrap the *document* read from *file*."""
    return _wrap(document, file, lines, (), "")


def _wrap(value: object, file: str, lines: Mapping[KeyPath, int], path: KeyPath, text: str) -> Node:
    """Wrap *value*; *text* is the result of ``dotted`` for *path*."""
    place = Place(file, text, lines.get(path))
    if isinstance(value, Mapping):
        wrapped = {
            key: _wrap(value[key], file, lines, (*path, key), _longer(text, key)) for key in value
        }
        return Node(wrapped, place)
    if isinstance(value, list):
        items = [
            _wrap(item, file, lines, (*path, number), _longer(text, number))
            for number, item in enumerate(value)
        ]
        return Node(items, place)
    return Node(value, place)


def merge(first: Node, second: Node) -> Node:
    """*second* on top of *first*; neither is changed."""
    tables = first.table(), second.table()
    if tables[0] is not None and tables[1] is not None:
        merged = dict(tables[0])
        for key, node in tables[1].items():
            merged[key] = merge(merged[key], node) if key in merged else node
        return Node(merged, first.place)
    lists = first.items(), second.items()
    if lists[0] is not None and lists[1] is not None:
        return Node(lists[0] + lists[1], second.place)
    return Node(second.value, second.place, [*first.overridden, first, *second.overridden])


def settings(node: Node) -> Iterator[Node]:
    """All single values in *node* that are not in lists, in the order of the configuration."""
    table = node.table()
    if table is not None:
        for child in table.values():
            yield from settings(child)
    elif node.items() is None:
        yield node


def dotted(path: KeyPath) -> str:
    """A key path for messages: ``persistence."/persistent".files[2].mode``."""
    text = ""
    for key in path:
        text = _longer(text, key)
    return text


def _longer(text: str, key: str | int) -> str:
    """The key path *text*, extended with *key*."""
    if isinstance(key, int):
        return f"{text}[{key}]"
    return f"{text}.{quoted(key)}" if text else quoted(key)


def quoted(key: str) -> str:
    """A key in TOML syntax, quoted if necessary."""
    if _BARE.fullmatch(key):
        return key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    if escaped.isprintable():
        return f'"{escaped}"'
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped) + '"'
