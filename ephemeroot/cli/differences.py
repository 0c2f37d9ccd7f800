"""Output of differences: grouped by directory, as JSON, as lines for the configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from ephemeroot import amounts, terminal
from ephemeroot.config import replaced
from ephemeroot.config.syntax import toml_text
from ephemeroot.old_roots.comparison import ADDED, CHANGED, DELETED, Difference

_SIGNS = {ADDED: "+", CHANGED: "~", DELETED: "-"}
_COLOURS = {ADDED: terminal.GREEN, CHANGED: terminal.YELLOW, DELETED: terminal.RED}


def show(found: Sequence[Difference], *, most: int | None) -> None:
    """Print *found* grouped by directory, at most *most* entries of each directory."""
    for folder, group in groupby(_by_folder(found), key=lambda d: os.path.dirname(d.path)):
        members = list(group)
        sys.stdout.write(terminal.heading(terminal.printable(folder)) + "\n")
        shown = members if most is None or len(members) <= most + 1 else members[:most]
        rows = [_row(difference) for difference in shown]
        terminal.table(rows, right=(2,), colours=[_COLOURS[d.change] for d in shown])
        if len(shown) < len(members):
            rest = members[len(shown) :]
            size = amounts.size(sum(d.size for d in rest))
            terminal.say(f"  and {len(rest)} more, {size} (--long shows all)")


def _by_folder(found: Iterable[Difference]) -> list[Difference]:
    return sorted(found, key=lambda d: (os.path.dirname(d.path).split("/"), d.path))


def _row(difference: Difference) -> list[str]:
    name = os.path.basename(difference.path)
    about = ", ".join(difference.what)
    if difference.kind == "directory":
        name += "/"
        if difference.change != CHANGED:
            about = terminal.count(difference.entries, "entry", "entries")
    elif difference.kind != "file" and difference.change != CHANGED:
        about = difference.kind
    has_size = difference.kind == "file" or difference.entries
    size = amounts.size(difference.size) if has_size else ""
    return [_SIGNS[difference.change], name, size, about]


def summary(found: Sequence[Difference]) -> str:
    """One line: the number and the size of added, changed and deleted files."""
    parts = []
    for change in (ADDED, CHANGED, DELETED):
        size = amounts.size(sum(d.size for d in found if d.change == change))
        # An added or deleted directory is one difference with its content.
        number = sum(1 + d.entries for d in found if d.change == change)
        parts.append(f"{number} {change} ({size})" if number else f"{number} {change}")
    return ", ".join(parts)


def lines(found: Iterable[Difference], store: str) -> list[str]:
    """Lines for the configuration with which *store* keeps the added and changed files."""
    directories, files, odd = [], [], []
    for difference in found:
        if difference.change == DELETED:
            continue
        try:
            path = toml_text.quote(difference.path)
        except UnicodeEncodeError:
            odd.append(f"# {terminal.printable(difference.path)}: its name is not UTF-8")
            continue
        if difference.kind == "directory":
            if difference.change == ADDED:
                directories.append(path)
        elif difference.kind == "file":
            copied = replaced.method(difference.path)
            files.append(f'{{ file = {path}, method = "copy" }}' if copied else path)
        elif difference.kind == "link":
            files.append(f'{{ file = {path}, method = "copy" }}')
        else:
            odd.append(f"# {path}: a {difference.kind} can be kept only with its directory")
    text = [f"[persistence.{toml_text.quote(store)}]"]
    if directories:
        text += [f"directories = {toml_text.array(directories)}"]
    if files:
        text += [f"files = {toml_text.array(files)}"]
    return [*text, *odd] if directories or files or odd else []


def to_json(found: Iterable[Difference]) -> list[dict[str, Any]]:
    """*found* for ``--json``."""
    return [
        {
            "path": d.path,
            "change": d.change,
            "kind": d.kind,
            "size": d.size,
            "entries": d.entries,
            "what": list(d.what),
        }
        for d in found
    ]
