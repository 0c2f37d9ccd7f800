"""JSON that may be damaged, from files that may be anything.

Whatever a file holds, reading it ends in a document or in one of the two errors that every caller
knows: ``ValueError`` for content and ``OSError`` for a file.
"""

from __future__ import annotations

import errno
import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LARGEST = 1 << 26
"""Bytes that a record or a plan may have. The largest plan of the tests has 3 MB."""


def parse(raw: bytes | str) -> Any:
    """The JSON document in *raw*. Raises ``ValueError``, also for one that is nested too deeply
    (``json`` raises RecursionError) or has a number of more than 4,300 digits.
    """
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(path: str, limit: int = LARGEST) -> bytes:
    """The content of the regular file *path*, links followed.

    Raises ``OSError``: EINVAL for anything but a regular file (a fifo is not waited for), EFBIG for
    more than *limit* bytes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return read_open(fd, path, limit)
    finally:
        os.close(fd)


def read_open(fd: int, path: str, limit: int = LARGEST) -> bytes:
    """The same for a file that is open for reading; *path* is for messages."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {kind}", path)
    parts = []
    left = limit
    while part := os.read(fd, min(left + 1, 1 << 20)):
        left -= len(part)
        if left < 0:
            raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", path)
        parts.append(part)
    return b"".join(parts)


def fits(value: object, shape: object) -> bool:
    """Whether *value* has the *shape*: a type or a tuple of types; ``[shape]`` for a list of such;
    ``{name: shape}`` for an object in which those keys, where they are present, have that shape;
    ``{str: shape}`` for an object all of whose values have it. A boolean is not a number,
    and a number has 64 bits.
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
