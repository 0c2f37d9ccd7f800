"""Values that a reader of damaged input must survive, and documents with one of them in it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = "<<deep>>"
"""Represents 3,000 nested lists, which ``json.dumps`` cannot write."""
LONG = "<<long>>"
"""Represents a number of 5,000 digits, likewise."""

ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1.5, math.inf, math.nan, 1 << 63, 1 << 64, -(1 << 70), 10**4000, "",
    "x", "/", "..", "a/../b", "\0", "\ud800", "\u202e", "x" * 5000, "self", "0", [], {}, [[]], [{}],
    [None], ["x", 1], {"self": 1}, {"": ""}, {"operation": "wipe"}, DEEP, LONG,
)  # fmt: skip

KEYS = ("self", "operation", "", "\0", "x" * 300, "__class__", "kind", "format", "\ud800")


def write(document: object) -> bytes:
    """*document* as JSON, with DEEP and LONG replaced by their values."""
    text = json.dumps(document, sort_keys=True)
    deep = "[" * 3000 + "]" * 3000
    return text.replace(f'"{DEEP}"', deep).replace(f'"{LONG}"', "9" * 5000).encode()


def places(document: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in *document*, including the (empty) path of the document itself."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from places(value, (*path, index))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of *document* with *value* at *path*."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    parent = changed
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return changed


def removed(document: Any, path: tuple[Any, ...]) -> Any:
    """A copy of *document* without the value at *path*."""
    changed = copy.deepcopy(document)
    parent = changed
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    return changed


def variants(document: Any) -> Iterator[Any]:
    """*document* with each value replaced by each odd one, removed, or with an odd key
    beside it.
    """
    for path in places(document):
        yield from (replaced(document, path, value) for value in ODD)
        if path:
            yield removed(document, path)
        found = document
        for step in path:
            found = found[step]
        if isinstance(found, dict):
            yield from (replaced(document, (*path, key), "x") for key in KEYS)


def anything() -> st.SearchStrategy[Any]:
    """Any JSON document."""
    leaves = st.sampled_from([v for v in ODD if not isinstance(v, (list, dict))]) | st.text()
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    )
