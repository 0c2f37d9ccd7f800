"""Patterns of paths that a comparison leaves out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.resources import files

from ephemeroot.errors import Misconfigured

_PARTS = re.compile(r"\*\*/|/\*\*$|\*\*|\*|\?|\[[^]/]+\]|[^*?\[]+|\[")


def known() -> list[str]:
    """The patterns that are left out unless everything is asked for."""
    text = files(__package__).joinpath("noise.txt").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether an absolute path matches one of the *patterns*.

    ``*`` and ``?`` match within a name, ``[…]`` one character, ``**`` across directories;
    ``/x/**`` is everything in ``/x`` but not that itself. A pattern without a slash matches a
    name anywhere. Raises ``Misconfigured``.
    """
    exact: set[str] = set()
    rest: dict[str, list[str]] = {}
    for pattern in patterns:
        expression = _expression(pattern)
        if _WILD.search(pattern) is None and "/" in pattern:
            exact.add(pattern.rstrip("/") or "/")
        else:
            rest.setdefault(_prefix(pattern), []).append(expression)
    anywhere = re.compile("|".join(rest.pop("", [])) or r"(?!)", re.DOTALL)
    # A root has many files and few places with noise: most paths are let pass by a look at
    # how they begin.
    places = tuple(rest)
    below = re.compile("|".join(e for some in rest.values() for e in some) or r"(?!)", re.DOTALL)

    def matches(path: str) -> bool:
        if path in exact:
            return True
        if path.startswith(places) and below.fullmatch(path):
            return True
        return anywhere.fullmatch(path) is not None

    return matches


_WILD = re.compile(r"[*?\[]")


def _prefix(pattern: str) -> str:
    """What every path that the *pattern* matches begins with; empty if that may be anything."""
    if "/" not in pattern or pattern.startswith("**"):
        return ""
    return _WILD.split(pattern, maxsplit=1)[0]


def _expression(pattern: str) -> str:
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    if not pattern.startswith(("/", "**")):
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
        return "[" + part[1:-1].replace("\\", "\\\\").replace("!", "^", 1) + "]"
    return re.escape(part)
