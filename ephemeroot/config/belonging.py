"""The table in which a key belongs, for the hint about a key in another table."""

from __future__ import annotations

from collections.abc import Iterator

from ephemeroot.config import plugins
from ephemeroot.config.syntax import nodes, settings
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.config.syntax.settings import Listed, Named, Table

_STORE = '[persistence."/persistent"]'
_TOP = "the top of the file, before the first table"


def hint(key: str, wiper: str) -> str:
    """A hint with the table in which *key* belongs if *wiper* is the wiper; empty without one."""
    found = list(dict.fromkeys(place for name, place in _keys(wiper) if name == key))
    return f"`{key}` belongs in {' or '.join(found)}" if found else ""


def _keys(wiper: str) -> Iterator[tuple[str, str]]:
    """Each key with the header of its table in TOML."""
    yield from ((name, "[root]") for name in settings.ROOT.names())
    try:
        own = plugins.find(wiper).root_table()
    except Mistake:
        own = Table(())
    yield from ((name, f"[root.{nodes.quoted(wiper)}]") for name in own.names())
    for setting in settings.TOP.settings:
        kind, name = setting.kind, setting.name
        if isinstance(kind, Listed):
            yield name, f"a separate table: [[{name}]]"
            yield from ((key, f"[[{name}]]") for key in kind.table.names())
        elif isinstance(kind, Named):
            yield name, f"a separate table: {_STORE}"
            yield from _below(kind.table, _STORE)
        elif isinstance(kind, Table):
            yield name, f"a separate table: [{name}]"
            yield from ((key, f"[{name}]") for key in kind.names())
        else:
            yield name, _TOP
    yield from ((name, "[match] of a drop-in") for name in settings.MATCH.names())


def _below(table: Table, header: str) -> Iterator[tuple[str, str]]:
    """The keys of a store, and those of its entries."""
    for setting in table.settings:
        yield setting.name, header
    for setting in table.settings:
        if isinstance(setting.kind, Named):
            yield from _below(setting.kind.table, f"{header[:-1]}.{setting.name}.NAME]")
        elif isinstance(setting.kind, Listed):
            short = setting.kind.short
            for key in setting.kind.table.names():
                yield key, f'an entry of `{setting.name}`: {{ {short} = "…", … }}'
