"""Checks of a table against the declared settings; each problem is noted with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ephemeroot.config.model import Origin
from ephemeroot.config.syntax import clean, nodes
from ephemeroot.config.syntax.kinds import Kind, type_word
from ephemeroot.config.syntax.nodes import Node
from ephemeroot.config.syntax.problem import Mistake, Mistakes, Place, Problem
from ephemeroot.config.syntax.settings import Listed, Named, Setting, Table

_HINTED = 100
"""The number of problems up to which an unknown key gets a hint with a similar key."""


@dataclass(slots=True)
class Record:
    """A checked table. ``values`` has every declared key, with the configured value or the default.

    ``places`` has the configured keys, ``broken`` the keys with invalid values, ``meant`` the keys
    that are similar to an unknown key.
    """

    place: Place
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    meant: set[str | None] = field(default_factory=set)

    def origin(self) -> Origin:
        """The places of the table and its keys, for the configuration."""
        return Origin(self.place, dict(self.places), frozenset(self.broken))

    def key(self, name: str) -> Place:
        """The place of the key *name*, also of a missing one."""
        if name in self.places:
            return self.places[name]
        below = f"{self.place.key}.{nodes.quoted(name)}" if self.place.key else name
        return Place(self.place.file, below, self.place.line)


class Reading:
    """The reading of one configuration: its ``problems``, and whether a part is ``lost``, so that
    later checks must not report it as missing. ``belongs`` returns a hint with the table in which
    a key belongs, or an empty text.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.lost = False
        self.belongs: Callable[[str], str] = lambda key: ""

    def add(self, place: Place, reason: str, hint: str = "", *, warning: bool = False) -> None:
        """Note a problem."""
        self.problems.append(Problem.at(place, reason, hint, warning=warning))

    def table(self, node: Node, table: Table, *, also: Iterable[str] = ()) -> Record | None:
        """Check *node* against *table*; ``None`` if it is not a table.

        Keys in *also* are allowed too; the caller checks their values.
        """
        self._overridden(node, lambda older: self.table(older, table, also=also))
        values = node.table()
        if values is None:
            self.add(node.place, f"the value must be a table, not {type_word(node.value)}")
            self.lost = True
            return None
        known = [*table.names(), *also]
        record = Record(node.place)
        for key, child in values.items():
            setting = table.setting(key)
            if setting is not None:
                self._setting(setting, child, record)
            elif key not in known:
                # The comparison of words is slow, so it is limited.
                hinted = len(self.problems) < _HINTED
                hint = self._hint(key, known) if hinted else ""
                self.add(child.place, f"unknown key `{key}`", hint)
                if hinted:
                    record.meant.add(clean.closest(key, known))
        for setting in table.settings:
            self._complete(setting, record, values)
        return record

    def _hint(self, key: str, known: list[str]) -> str:
        hints = [clean.close(key, known), self.belongs(key)]
        return " ".join(filter(None, hints)) or clean.meant(key, known)

    def _setting(self, setting: Setting, node: Node, record: Record) -> None:
        record.places[setting.name] = node.place
        value = self._value(setting, node)
        if value is None:
            record.broken.add(setting.name)
        else:
            record.values[setting.name] = value

    def _complete(self, setting: Setting, record: Record, written: Mapping[str, Node]) -> None:
        if setting.name in record.values:
            return
        record.values[setting.name] = setting.default
        if setting.required and setting.name not in written:
            record.broken.add(setting.name)
            if setting.name in record.meant:
                return  # the unknown key is the only error
            self.add(record.place, f"`{setting.name}` is missing", f"set it: {setting.help}")

    def _value(self, setting: Setting, node: Node) -> object:
        """The checked value; ``None`` after an error, which is noted."""
        kind = setting.kind
        if isinstance(kind, Table):
            return self.table(node, kind)
        if isinstance(kind, Listed):
            return self.listed(node)
        if isinstance(kind, Named):
            return self._named(node, kind)
        self._overridden(node, lambda older: self._value(setting, older))
        try:
            return kind.parse(plain(node))
        except Mistakes as mistakes:
            items = node.items()
            for position, mistake in mistakes.found:
                place = items[position].place if items else node.place
                self.add(place, mistake.reason, mistake.hint)
            return None
        except Mistake as mistake:
            self.add(node.place, mistake.reason, mistake.hint)
            return None

    def listed(self, node: Node) -> list[Node]:
        """The items of a list of tables; empty after an error, which is noted."""
        self._overridden(node, self.listed)
        items = node.items()
        if items is None:
            hint = f"write [[{node.place.key}]]" if node.table() is not None else ""
            self.add(node.place, f"the value must be a list, not {type_word(node.value)}", hint)
            self.lost = True
            return []
        return items

    def short(self, node: Node, listed: Listed) -> Record | None:
        """An item of a list: a table, or the plain value that is short for a table."""
        if node.table() is None:
            if isinstance(node.value, list) or not listed.short:
                hint = f"a table with `{listed.short}` is allowed too" if listed.short else ""
                reason = f"the value must be a string, not {type_word(node.value)}"
                self.add(node.place, reason, hint)
                self.lost = True
                return None
            node = Node({listed.short: Node(node.value, node.place)}, node.place)
        return self.table(node, listed.table)

    def _named(self, node: Node, kind: Named) -> dict[str, Record]:
        """The records by checked names; two spellings of one name are merged."""
        self._overridden(node, lambda older: self._named(older, kind))
        values = node.table()
        if values is None:
            self.add(node.place, f"the value must be a table, not {type_word(node.value)}")
            self.lost = True
            return {}
        merged: dict[str, Node] = {}
        for key, child in values.items():
            name = self._name(kind.key, key, child)
            if name is not None:
                merged[name] = nodes.merge(merged[name], child) if name in merged else child
        records = {name: self.table(child, kind.table) for name, child in merged.items()}
        return {name: record for name, record in records.items() if record is not None}

    def _name(self, kind: Kind, key: str, node: Node) -> str | None:
        try:
            return str(kind.parse(key))
        except Mistake as mistake:
            self.add(node.place, mistake.reason, mistake.hint)
            self.lost = True
            return None

    def _overridden(self, node: Node, check: Any) -> None:
        """Check values that another file has replaced; they must be valid too."""
        for older in node.overridden:
            lost = self.lost
            check(older)
            self.lost = lost


def plain(node: Node) -> object:
    """The value without places."""
    if (items := node.items()) is not None:
        return [plain(item) for item in items]
    if (table := node.table()) is not None:
        return {key: plain(child) for key, child in table.items()}
    return node.value
