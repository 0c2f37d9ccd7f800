"""JSON: documents of this program, and possibly damaged documents from any file.

Reading a file results in a document or in one of two errors that every caller handles:
``ValueError`` for the content and ``OSError`` for the file.

The library's package ``json`` imports ``re``, ``enum``, ``functools`` and ``collections``, which
takes longer than starting the interpreter. The C module ``_json`` does the work. This module calls
it directly, as ``json.decoder`` and ``json.encoder`` do, and imports ``json`` for other cases:
other encodings, damaged documents, and interpreters without ``_json`` or with a different one.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

try:
    from _json import encode_basestring_ascii as _quoted
    from _json import make_encoder as _make_encoder
    from _json import make_scanner as _make_scanner
except ImportError:  # not CPython: ``json`` is used
    pass

LARGEST = 1 << 26
"""The maximum size in bytes of a record or plan. The largest plan of the tests has 3 MB."""


def parse(raw: bytes | str) -> Any:
    """The JSON document in *raw*. Raises ``ValueError``, also for deep nesting (RecursionError of
    ``json``) and for numbers of more than 4,300 digits.
    """
    try:
        text = raw if isinstance(raw, str) else _decoded(raw)
        document, end = _make_scanner(_Context)(text, 0)  # type: ignore[arg-type]  # typeshed
        if text[end:].strip(_WHITE):
            raise ValueError("there is more data after the document")
    except Exception:  # noqa: BLE001  # the library raises its own error for the same document
        return _parse_slowly(raw)
    return document


class _Context:
    """The settings that ``json.decoder.JSONDecoder`` passes to the scanner."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {
        "-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan"),
    }.__getitem__  # fmt: skip


_WHITE = " \t\n\r"


def _decoded(raw: bytes) -> str:
    # UTF-16 and UTF-32 have a NUL among the first four bytes (RFC 4627, section 3).
    if not raw.startswith((b"{", b"[")) or b"\0" in raw[:4]:
        raise ValueError("it may be encoded in another way")
    return raw.decode("utf-8", "surrogatepass")


def _parse_slowly(raw: bytes | str) -> Any:
    import json

    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dump(value: object, *, compact: bool = False) -> bytes:
    """*value* as JSON in one line, with sorted keys, in ASCII: a byte of a path that is not UTF-8
    is a surrogate in Python and must be kept. *compact*: without white space.
    """
    item, key = (",", ":") if compact else (", ", ": ")
    try:
        encode = _make_encoder({}, _refuse, _quoted, None, key, item, True, False, True)
        return "".join(encode(value, 0)).encode("ascii")
    except Exception:  # noqa: BLE001  # as for parsing
        import json

        return json.dumps(value, sort_keys=True, separators=(item, key)).encode()


def dump_lines(value: object) -> bytes:
    """*value* as JSON with sorted keys, indented like ``json.dumps`` with ``indent=1`` to the third
    level, whose values are in one line each.
    """
    return "".join(_lines(value, "\n", 3)).encode("ascii")


def _refuse(value: object) -> object:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _lines(value: object, line: str, levels: int) -> Iterator[str]:
    """The lines of *value*; *line* is a line break and the present indentation."""
    if not (levels and value and isinstance(value, dict | list)):
        yield dump(value).decode("ascii")
        return
    first, last = "{}" if isinstance(value, dict) else "[]"
    separator = first
    for key in sorted(value) if isinstance(value, dict) else range(len(value)):
        yield f"{separator}{line} "
        separator = ","
        if isinstance(value, dict):
            yield f"{dump(key).decode('ascii')}: "
        yield from _lines(value[key], f"{line} ", levels - 1)
    yield f"{line}{last}"


def read(path: str, limit: int = LARGEST) -> bytes:
    """The content of the regular file *path*, links followed.

    Raises ``OSError``: EINVAL if it is not a regular file (a FIFO does not block), EFBIG if it is
    larger than *limit* bytes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return read_open(fd, path, limit)
    finally:
        os.close(fd)


def read_open(fd: int, path: str, limit: int = LARGEST) -> bytes:
    """Read an open file like ``read``; *path* is for messages."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {kind}", path)
    parts = []
    left = limit
    while part := os.read(fd, min(left + 1, 1 << 20)):
        left -= len(part)
        if left < 0:
            from ephemeroot import amounts  # imported only for an error

            raise OSError(errno.EFBIG, f"it is larger than {amounts.size(limit)}", path)
        parts.append(part)
    return b"".join(parts)


def fits(value: object, shape: object) -> bool:
    """Whether *value* has the *shape*: a type or a tuple of types; ``[shape]`` for a list of such
    values; ``{name: shape}`` for an object whose present keys have these shapes; ``{str: shape}``
    for an object whose values all have that shape. A boolean is not a number, and a number has 64
    bits.
    """
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(fits(item, shape[str]) for item in value.values())
        return all(fits(value[key], inner) for key, inner in shape.items() if key in value)
    types = shape if isinstance(shape, tuple) else (shape,)
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, (int, float)) and not -(1 << 63) <= value < 1 << 63:  # also a NaN
        return False
    return isinstance(value, types)
