"""Patterns of paths that a comparison leaves out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ephemeroot.errors import Misconfigured

_PARTS = re.compile(r"\*\*/|/\*\*$|\*\*|\*|\?|\[[^]/]+\]|[^*?\[]+|\[")


def known() -> list[str]:
    """The patterns that are left out unless everything is asked for."""
    return listed(Path(__file__).with_name("noise.txt"))


def listed(file: Path) -> list[str]:
    """The patterns in *file*, one a line; a line that begins with # is a comment."""
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether an absolute path matches one of the *patterns*.

    ``*`` and ``?`` match within a name, ``[…]`` one character, ``**`` across directories;
    ``/x/**`` is everything in ``/x`` but not that itself. A pattern without a slash matches a
    name anywhere. Raises ``Misconfigured``.
    """
    exact: set[str] = set()
    names: list[str] = []
    anywhere: list[str] = []
    below: dict[str, list[str]] = {}
    for pattern in patterns:
        expression = _expression(pattern)
        name = pattern.removeprefix("**/")
        if "/" not in name and "**" not in name:
            names.append(_expression(name, whole=True))
        elif _WILD.search(pattern) is None:
            exact.add(pattern.rstrip("/") or "/")
        elif prefix := _prefix(pattern):
            below.setdefault(prefix, []).append(expression)
        else:
            anywhere.append(expression)
    # A root has many files and few places with noise: most paths are let pass by a look at
    # how they begin, and at their name.
    places = tuple(below)
    in_places = _any(e for some in below.values() for e in some)
    is_name, is_anywhere = _any(names), _any(anywhere) if anywhere else None

    def matches(path: str) -> bool:
        if path in exact or is_name(path[path.rfind("/") + 1 :]):
            return True
        if path.startswith(places) and in_places(path):
            return True
        return is_anywhere is not None and is_anywhere(path) is not None

    return matches


def _any(expressions: Iterable[str]) -> Callable[[str], object]:
    """The match of a text with any of them, or ``None``."""
    return re.compile("|".join(expressions) or r"(?!)", re.DOTALL).fullmatch


_WILD = re.compile(r"[*?\[]")


def _prefix(pattern: str) -> str:
    """What every path that the *pattern* matches begins with; empty if that may be anything."""
    if "/" not in pattern or pattern.startswith("**"):
        return ""
    return _WILD.split(pattern, maxsplit=1)[0]


def _expression(pattern: str, *, whole: bool = False) -> str:
    """The regular expression of a *pattern*; *whole*: of a name."""
    if not whole and "/" not in pattern:
        pattern = f"**/{pattern}"
    if not whole and not pattern.startswith(("/", "**")):
        raise Misconfigured(
            f"the pattern {pattern!r} is not absolute", f"write '/{pattern}' or '**/{pattern}'"
        )
    if len(pattern) > 1:
        pattern = pattern.rstrip("/") if not pattern.endswith("**/") else pattern
    found = "".join(_part(part) for part in _PARTS.findall(pattern))
    try:
        re.compile(found)
    except re.error as error:
        raise Misconfigured(f"the pattern {pattern!r} cannot be used: {error}") from None
    return f"(?:{found})"


def _part(part: str) -> str:
    if part == "**/":
        return r"(?:.*/)?"
    if part == "/**":
        return r"/.+"
    if part == "**":
        return ".*"
    if part == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if len(part) > 2 and part[0] == "[":
        inside = part[1:-1].replace("\\", "\\\\").replace("^", "\\^")
        return f"[^{inside[1:]}]" if inside[0] == "!" else f"[{inside}]"
    return re.escape(part)
