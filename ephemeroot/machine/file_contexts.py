"""Lookup in a policy's file_contexts(5) as by libselinux, for systems without that library."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

_SPECIAL = frozenset(b".^$?*+|[({")
_KINDS = {
    b"--": stat.S_IFREG, b"-d": stat.S_IFDIR, b"-l": stat.S_IFLNK, b"-c": stat.S_IFCHR,
    b"-b": stat.S_IFBLK, b"-s": stat.S_IFSOCK, b"-p": stat.S_IFIFO,
}  # fmt: skip
_NONE = b"<<none>>"


@dataclass(frozen=True, slots=True)
class _Rule:
    """``kind`` is the file type of the rule, 0 for all types. Every path that matches starts with
    ``stem``; a rule without special characters has no ``pattern``.
    """

    pattern: bytes
    stem: bytes
    kind: int
    label: bytes


class FileContexts:
    """The rules in the *texts* of file_contexts, in their order, and the substitutions of the
    *distribution* (file_contexts.subs_dist) and of the administrator (file_contexts.subs).
    """

    def __init__(self, texts: Iterable[bytes], distribution: bytes, local: bytes) -> None:
        rules = [rule for text in texts for rule in _rules(text)]
        # Later rules take precedence, and those without special characters before all others
        # (sort_specs and lookup_all in libselinux/src/label_file.[ch]).
        self._plain = {(rule.stem, rule.kind): rule for rule in rules if not rule.pattern}
        self._patterns = [rule for rule in reversed(rules) if rule.pattern]
        self._compiled: dict[bytes, re.Pattern[bytes] | None] = {}
        self._local = _substitutions(local)
        self._distribution = _substitutions(distribution)

    def look_up(self, path: str, kind: int) -> str | None:
        """The label of *path*, a file of the type *kind* (``stat.S_IFDIR``); ``None`` if the policy
        has none for it.
        """
        name = os.fsencode(path)
        for pairs in (self._local, self._distribution):
            name = _substitute(name, pairs)
        rule = self._find(name, kind)
        return None if rule is None or rule.label == _NONE else os.fsdecode(rule.label)

    def _find(self, name: bytes, kind: int) -> _Rule | None:
        plain = [self._plain[key] for key in ((name, kind), (name, 0)) if key in self._plain]
        if plain:
            return plain[0]
        for rule in self._patterns:
            if rule.kind in (0, kind) and name.startswith(rule.stem):
                pattern = self._compile(rule.pattern)
                if pattern is not None and pattern.search(name):
                    return rule
        return None

    def _compile(self, text: bytes) -> re.Pattern[bytes] | None:
        if text not in self._compiled:
            try:
                # libselinux sets the anchors without grouping a top-level alternative.
                self._compiled[text] = re.compile(b"^" + text + b"$", re.DOTALL)
            except re.error:
                self._compiled[text] = None  # PCRE syntax that Python does not support
        return self._compiled[text]


def _rules(text: bytes) -> Iterable[_Rule]:
    """The rules of a file; other lines are skipped."""
    for line in text.splitlines():
        words = line.split()
        if len(words) not in (2, 3) or words[0].startswith(b"#"):
            continue
        kind = _KINDS.get(words[1]) if len(words) == 3 else 0
        if kind is not None:
            yield _rule(words[0], kind, words[-1])


def _rule(pattern: bytes, kind: int, label: bytes) -> _Rule:
    """The rule, parsed like spec_hasMetaChars in libselinux/src/label_file.h: a backslash escapes
    the character after it.
    """
    stem = bytearray()
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character in _SPECIAL:
            # The character before these is optional.
            before = stem[:-1] if character in b"?*{" else stem
            return _Rule(pattern, bytes(b"" if b"|" in pattern else before), kind, label)
        if character == ord("\\"):
            if pattern[position + 1 : position + 2].isalnum():
                return _Rule(pattern, bytes(stem), kind, label)  # \d, \w
            position += 1
        stem += pattern[position : position + 1]
        position += 1
    return _Rule(b"", bytes(stem), kind, label)


def _substitutions(text: bytes) -> list[tuple[bytes, bytes]]:
    """Pairs of a path prefix and its replacement. The last line takes precedence."""
    lines = [line.split() for line in text.splitlines()]
    pairs = [(w[0], w[1]) for w in lines if len(w) >= 2 and not w[0].startswith(b"#")]
    return pairs[::-1]


def _substitute(name: bytes, pairs: list[tuple[bytes, bytes]]) -> bytes:
    for alias, real in pairs:
        if name == alias:
            return real
        if name.startswith(alias + b"/"):
            rest = name[len(alias) :]
            return rest if real == b"/" else real + rest
    return name
