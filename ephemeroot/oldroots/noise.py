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
    expressions = [_expression(pattern) for pattern in patterns]
    if not expressions:
        return lambda path: False
    compiled = re.compile("|".join(expressions), re.DOTALL)
    return lambda path: compiled.fullmatch(path) is not None


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
