"""Words of a command that somebody copies from a hint into a shell."""

from __future__ import annotations

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@#%+=")


def quoted(word: str) -> str:
    """*word* for a shell, in double quotes if it needs any: hints have their commands in single
    ones. What a user has named, such as the hold of a snapshot, can be any text.
    """
    if word and set(word) <= _PLAIN:
        return word
    return '"' + "".join(f"\\{c}" if c in '"$`\\' else c for c in word) + '"'
