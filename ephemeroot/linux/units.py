"""Names of systemd units, and of the private mounts that are called like them.

``escape_path`` is ``systemd-escape --path`` (systemd.unit(5), "String Escaping for
Inclusion in Unit Names"): different paths never share a name, and the path can be had
back from it.
"""

from __future__ import annotations

_PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:_.")

LONGEST = 255
"""Bytes in a unit's name, the suffix included (systemd, src/basic/unit-name.h: 256 with NUL)."""


def escape_path(path: str) -> str:
    """Return the clean absolute *path* as a part of a unit's name: ``/data/x-y`` is
    ``data-x\\x2dy``, ``/`` is ``-``.
    """
    inner = path.strip("/")
    if not inner:
        return "-"
    out = []
    for position, byte in enumerate(inner.encode("utf-8", "surrogateescape")):
        if byte == 0x2F:
            out.append("-")
        elif byte in _PLAIN and not (position == 0 and byte == 0x2E):
            out.append(chr(byte))
        else:
            out.append(f"\\x{byte:02x}")
    return "".join(out)


def unescape_path(name: str) -> str:
    """Return the path whose ``escape_path`` is *name*. Raises ``ValueError`` for others."""
    if name == "-":
        return "/"
    out = bytearray(b"/")
    position = 0
    while position < len(name):
        character = name[position]
        if character == "\\":
            if name[position + 1 : position + 2] != "x" or position + 4 > len(name):
                raise ValueError(name)
            out.append(int(name[position + 2 : position + 4], 16))
            position += 4
        else:
            out += b"/" if character == "-" else character.encode()
            position += 1
    path = out.decode("utf-8", "surrogateescape")
    if escape_path(path) != name:
        raise ValueError(name)
    return path


def mount_unit(path: str) -> str:
    """The name of the mount unit of the clean absolute *path*."""
    return f"{escape_path(path)}.mount"
