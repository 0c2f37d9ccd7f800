"""Words of a command in a hint, to be pasted into a shell."""

from __future__ import annotations

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@#%+=")


def quoted(word: str) -> str:
    """*word* for a shell, in double quotes if necessary, because hints have their commands in
    single quotes. A word that a user has chosen, such as the hold of a snapshot, may be any text.
    """
    if word and set(word) <= _PLAIN:
        return word
    return '"' + "".join(f"\\{c}" if c in '"$`\\' else c for c in word) + '"'
