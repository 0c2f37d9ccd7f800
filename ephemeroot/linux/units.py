"""Names of systemd units, and of private mounts with the same names.

``escape_path`` is ``systemd-escape --path`` (systemd.unit(5), "String Escaping for Inclusion in
Unit Names"): different paths have different names, and the path can be recovered from its name.
"""

from __future__ import annotations

_PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:_.")

_HEXADECIMAL = frozenset("0123456789abcdef")

LONGEST = 255
"""Maximum length in bytes of a unit's name with its suffix (systemd, src/basic/unit-name.h)."""


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
    path = "/"
    if name != "-":
        path += _unescape(name.replace("-", "/"))
    parts = path[1:].split("/")
    if escape_path(path) != name or (path != "/" and any(p in ("", ".", "..") for p in parts)):
        raise ValueError(f"{name!r} is not an escaped path")
    return path


def _unescape(text: str) -> str:
    """Decode ``\\xNN``; other text is unchanged, which re-escaping detects."""
    out = bytearray()
    position = 0
    while position < len(text):
        digits = text[position + 2 : position + 4]
        if text.startswith("\\x", position) and len(digits) == 2 and set(digits) <= _HEXADECIMAL:
            out.append(int(digits, 16))
            position += 4
        else:
            out += text[position].encode("utf-8", "surrogateescape")
            position += 1
    return out.decode("utf-8", "surrogateescape")


def mount_unit(path: str) -> str:
    """The name of the mount unit of the clean absolute *path*."""
    return f"{escape_path(path)}.mount"
