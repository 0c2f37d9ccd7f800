"""File modes in the syntax of chmod: octal, or symbolic such as ``u=rwx,g=rx,o=``."""

from __future__ import annotations

import re

from ephemeroot.config.syntax.problem import Mistake

DIRECTORY = 0o755
"""The mode of a new directory to which a symbolic mode is applied."""

FILE = 0o644
"""The mode of a new file to which a symbolic mode is applied."""

UMASK = 0o022
"""The bits that a clause without ``u``, ``g``, ``o`` or ``a`` does not change."""

_ALL = 0o7777
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": _ALL}
_WHAT = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_EXECUTE = 0o111
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))*(?:[-+=][0-7]{1,4})?)")
_ACTION = re.compile(r"([-+=])([ugo]|[0-7]+|[rwxXst]*)")
_DIGITS = re.compile(r"[0-9]+")
_OCTAL = re.compile(r"[0-7]{3,4}")
_HINT = 'write "0750", or "u=rwx,g=rx,o=" as for chmod'


def parse(text: str, *, directory: bool) -> int:
    """The mode of a new directory or file by *text*. Raises ``Mistake``."""
    if _DIGITS.fullmatch(text):
        if not _OCTAL.fullmatch(text):
            raise Mistake(f"{text!r} is not a mode of three or four octal digits", _HINT)
        return int(text, 8)
    mode = DIRECTORY if directory else FILE
    for clause in text.split(","):
        found = _CLAUSE.fullmatch(clause)
        if found is None or not found[2] or (found[1] and found[2][-1] in "01234567"):
            raise Mistake(f"{text!r} is not a mode", _HINT)
        affected = 0
        for who in found[1]:
            affected |= _WHO[who]
        for action in _ACTION.finditer(found[2]):
            mode = _apply(mode, affected, action[1], action[2], directory=directory)
    return mode


def _apply(mode: int, affected: int, operator: str, what: str, *, directory: bool) -> int:
    """Apply one action of one clause, like ``mode_adjust`` of GNU (gnulib, modechange.c)."""
    value = 0
    if _DIGITS.fullmatch(what):
        value = int(what, 8)
        affected = mentioned = _ALL
    elif what in ("u", "g", "o"):
        held = mode & _WHO[what] & 0o777
        for bits in (0o444, 0o222, 0o111):
            value |= bits if held & bits else 0
        mentioned = affected & _WHO[what] & 0o777 if affected else _WHO[what] & 0o777
    else:
        for letter in what:
            value |= _WHAT.get(letter, 0)
        mentioned = affected & value if affected else value
        if "X" in what and (directory or mode & _EXECUTE):
            value |= _EXECUTE
    # A directory keeps set-user-id and set-group-id unless the mode mentions them.
    kept = 0o6000 & ~mentioned if directory else 0
    value &= (affected or ~UMASK) & ~kept
    if operator == "+":
        return mode | value
    if operator == "-":
        return mode & ~value
    preserved = (~affected if affected else 0) | kept
    return ((mode & preserved) | value) & _ALL


def explain_integer(value: int) -> str:
    """The hint for a mode that is a number instead of a string."""
    readings = []
    if _OCTAL.fullmatch(str(value)):
        readings.append(f'"{value:04d}"')
    if 0 <= value <= _ALL:
        readings.append(f'"{value:04o}" (if 0o{value:o} was meant)')
    return f"write it as a string: {' or '.join(readings) or _HINT}"
