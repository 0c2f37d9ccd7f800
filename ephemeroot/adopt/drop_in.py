"""The drop-in in which ``adopt`` declares paths. ``adopt`` only adds to it, and never changes a
file that the administrator has edited.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ephemeroot.config import Configuration, Place
from ephemeroot.config.model import Entry, Origin
from ephemeroot.config.syntax import toml
from ephemeroot.config.syntax.settings import OPTIONS
from ephemeroot.config.syntax.toml_text import array, quote
from ephemeroot.errors import EphemerootError
from ephemeroot.linux import documents, paths

FOLDER = "etc/ephemeroot/conf.d"
NAME = "adopted"

_HEAD = """\
# Declared by `ephemeroot adopt`. If you edit this file, adopt leaves it alone and starts another.
"""


@dataclass(frozen=True, slots=True)
class Declaration:
    """One new persistent path in ``store``."""

    path: str
    store: str
    is_directory: bool
    method: str = ""

    def entry(self) -> Entry:
        """The entry of the configuration."""
        origin = Origin(Place("ephemeroot adopt"))
        options = OPTIONS["directory" if self.is_directory else "file"]()
        return Entry(
            path=self.path,
            options=replace(options, method=self.method or options.method),
            parent_origin=origin,
            origin=origin,
        )

    def item(self) -> str:
        """The entry as TOML."""
        if not self.method:
            return quote(self.path)
        key = "directory" if self.is_directory else "file"
        return f"{{ {key} = {quote(self.path)}, method = {quote(self.method)} }}"


def extended(config: Configuration, new: Sequence[Declaration]) -> Configuration:
    """*config* with the *new* declarations, before they are in the drop-in."""
    stores = tuple(
        replace(
            store,
            entries=(*store.entries, *(one.entry() for one in new if one.store == store.path)),
        )
        for store in config.stores
    )
    return replace(config, stores=stores)


def render(declarations: Iterable[Declaration]) -> str:
    """The text of a drop-in with these declarations."""
    stores: dict[str, list[Declaration]] = {}
    for one in declarations:
        stores.setdefault(one.store, []).append(one)
    parts = [_HEAD]
    for store, entries in stores.items():
        lines = [f"\n[persistence.{quote(store)}]"]
        for key, wanted in (("directories", True), ("files", False)):
            items = [one.item() for one in entries if one.is_directory is wanted]
            if items:
                lines.append(f"{key} = {array(items)}")
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def parse(text: str) -> list[Declaration] | None:
    """The declarations of a drop-in; ``None`` unless the text is exactly as by ``render``."""
    try:
        content, _ = toml.parse(text.encode("utf-8"))
        found = [
            _declaration(item, store, key == "directories")
            for store, table in content.get("persistence", {}).items()
            for key in ("directories", "files")
            for item in table.get(key, ())
        ]
    except (toml.SyntaxMistake, AttributeError, KeyError, TypeError):
        return None
    return found if render(found) == text else None


def _declaration(item: object, store: str, is_directory: bool) -> Declaration:
    if isinstance(item, str):
        return Declaration(item, store, is_directory)
    if not isinstance(item, dict):
        raise TypeError(item)
    key = "directory" if is_directory else "file"
    return Declaration(str(item[key]), store, is_directory, str(item["method"]))


def place(root: Path) -> tuple[Path, list[Declaration]]:
    """The drop-in of the machine below *root* to which entries can be added, with its
    declarations.
    """
    number = 1
    while True:
        name = f"{NAME}.toml" if number == 1 else f"{NAME}-{number}.toml"
        path = root / FOLDER / name
        try:
            text = documents.read(str(path)).decode("utf-8")
        except FileNotFoundError:
            return path, []
        except UnicodeDecodeError:
            text = ""
        found = parse(text)
        if found is not None:
            return path, found
        number += 1


def add(root: Path, declarations: list[Declaration]) -> Path:
    """Add *declarations* to the drop-in of the machine below *root*, atomically and durably."""
    path, present = place(root)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.is_symlink() or os.path.isdir(path):
        raise EphemerootError(
            f"cannot write the drop-in {path}: it is not a regular file",
            "move it away, and run the command again",
        )
    text = render([*present, *(one for one in declarations if one not in present)])
    paths.write_atomically(str(path), text.encode("utf-8"), 0o644)
    return path
