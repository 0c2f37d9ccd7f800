"""Reading ``home.toml`` into declared entries; all mistakes are collected."""

from __future__ import annotations

from ephemeroot.config import reader, sources
from ephemeroot.config.records import Reading, Record
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.config.syntax.settings import Listed
from ephemeroot.errors import Misconfigured
from ephemeroot.home import claims
from ephemeroot.home.model import SYMLINK, Entry, HomeConfiguration, Store, parents_first
from ephemeroot.home.settings import STORE, TOP
from ephemeroot.home.user import User


def read(user: User, file: str | None = None) -> HomeConfiguration:
    """The declarations of *user* in *file*, by default the user's ``home.toml``.

    All mistakes are in ``problems`` of the result. Raises ``Misconfigured`` only if the file does
    not exist.
    """
    path = file or user.configuration
    reading = Reading()
    try:
        (source,) = sources.find("/", path)
    except Misconfigured:
        raise Misconfigured(
            f"the configuration {path} does not exist",
            f'begin it with [persistence."/persistent/home/{user.name}"] and directories = ["…"]',
        ) from None
    node = reader.parse(source, reading)
    top = None if node is None else reading.table(node, TOP)
    found = _stores(user, (top.values["persistence"] if top else None) or {}, reading)
    entries = [entry for _, entries in found for entry in entries]
    claims.check(user, path, entries, reading)
    return HomeConfiguration(
        file=path,
        stores=tuple(store for store, _ in found),
        entries=tuple(parents_first(entries)),
        problems=tuple(reading.problems),
    )


def _stores(
    user: User, records: dict[str, Record], reading: Reading
) -> list[tuple[Store, list[Entry]]]:
    found = []
    for name, record in records.items():
        path = user.home + name[1:] if name.startswith("~") else name
        # A disabled store is checked as well.
        entries = _entries(user, path, record, reading)
        if record.values["enable"]:
            found.append((Store(path, record.place, record.key("allow-other")), entries))
    return found


def _entries(user: User, store: str, record: Record, reading: Reading) -> list[Entry]:
    entries = []
    for key in ("directories", "files"):
        setting = STORE.setting(key)
        assert setting is not None
        assert isinstance(setting.kind, Listed)
        for node in record.values[key]:
            item = reading.short(node, setting.kind)
            entry = None if item is None else _entry(user, store, item, setting.kind.short, record)
            if isinstance(entry, Mistake):
                reading.add(node.place, entry.reason, entry.hint)
            elif entry is not None:
                entries.append(entry)
    return entries


def _entry(
    user: User, store: str, item: Record, path_key: str, record: Record
) -> Entry | Mistake | None:
    path = item.values[path_key]
    if path is None:
        return None
    below = path
    if record.values["remove-prefix-directory"]:
        prefix, _, below = path.partition("/")
        if not below:
            return Mistake(
                f"{path!r} is empty without its prefix directory",
                f"write '{prefix}/…', or remove remove-prefix-directory",
            )
    method = SYMLINK
    if path_key == "directory":
        method = item.values["method"] or record.values["default-directory-method"]
    entry = Entry(
        source=f"{store.rstrip('/')}/{path}",
        target=f"{user.home}/{below}",
        store=store,
        is_directory=path_key == "directory",
        method=method,
        allow_other=record.values["allow-other"],
        place=item.place,
    )
    try:
        clean.require_length(entry.source)
        clean.require_length(entry.target)
    except Mistake as mistake:
        return mistake
    return entry
