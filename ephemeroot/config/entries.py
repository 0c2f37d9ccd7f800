"""Stores and their declared paths, from checked tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ephemeroot.config.model import Entry, Origin, StoreEntry, UserEntry
from ephemeroot.config.records import Reading, Record
from ephemeroot.config.syntax.settings import (
    OPTIONS,
    STORE,
    USER,
    Binding,
    FileOptions,
    Listed,
    Permissions,
    Table,
)

MACHINE_ID = "/etc/machine-id"

T = TypeVar("T", bound=Binding | Permissions)


def stores(
    records: Mapping[str, Record] | None, reading: Reading
) -> tuple[tuple[StoreEntry, ...], tuple[str, ...]]:
    """The enabled stores in the order of the configuration, and the paths of the others."""
    found = [_store(path, record, reading) for path, record in (records or {}).items()]
    enabled = {path: (records or {})[path].values["enable"] for path in records or {}}
    return (
        tuple(store for store in found if enabled[store.path]),
        tuple(store.path for store in found if not enabled[store.path]),
    )


def _store(path: str, record: Record, reading: Reading) -> StoreEntry:
    users = record.values["users"] or {}
    return StoreEntry(
        path=path,
        binding=_options(Binding, record.values),
        entries=_entries(record.values, STORE, reading),
        users=tuple(_user(name, user, reading) for name, user in users.items()),
        origin=record.origin(),
    )


def _user(name: str, record: Record, reading: Reading) -> UserEntry:
    entries = _entries(record.values, USER, reading)
    for entry in entries:
        if "required" in entry.origin.keys and entry.options.required:
            reading.add(
                entry.origin.of("required"),
                "an entry of a user cannot be required: the user could prevent the boot",
                "remove required",
            )
    return UserEntry(
        name=name,
        home=record.values["home"],
        binding=_options(Binding, record.values),
        entries=entries,
        origin=record.origin(),
    )


def _entries(values: Mapping[str, Any], table: Table, reading: Reading) -> tuple[Entry, ...]:
    found = []
    for key in ("directories", "files"):
        setting = table.setting(key)
        assert setting is not None
        assert isinstance(setting.kind, Listed)
        for node in values[key]:
            record = reading.short(node, setting.kind)
            entry = None if record is None else _entry(record, setting.kind.short, reading)
            if entry is not None:
                found.append(entry)
    return tuple(found)


def _entry(record: Record, path_key: str, reading: Reading) -> Entry | None:
    values = record.values
    path = values[path_key]
    if path is None:
        return None
    parent = values["parent-directory"]
    entry = Entry(
        path=path,
        options=_options(OPTIONS[path_key], values),
        parent_origin=parent.origin() if parent else Origin(record.place),
        origin=record.origin(),
    )
    _check_machine_id(entry, reading)
    return entry


def _check_machine_id(entry: Entry, reading: Reading) -> None:
    origin = entry.origin
    if entry.path != MACHINE_ID:
        if isinstance(entry.options, FileOptions) and entry.options.first_boot:
            reason = f"first-boot is only for {MACHINE_ID}, not for {entry.path}"
            reading.add(origin.of("first-boot"), reason, "remove first-boot")
        return
    if entry.is_directory:
        reason = f"{MACHINE_ID} is declared as a directory, but is a file"
        reading.add(origin.place, reason, "declare it in files")
        return
    if "method" in origin.keys and entry.options.method != "copy":
        reading.add(
            origin.of("method"),
            f"{MACHINE_ID} is always copied: systemd does not accept a bound or linked one",
            "remove method",
        )


def _options(class_: type[T], values: Mapping[str, Any]) -> T:
    """An instance with the checked *values*, and with defaults for missing keys."""
    given: dict[str, Any] = {}
    for one in fields(class_):
        value = values[one.name.replace("_", "-")]
        if isinstance(value, Record):
            value = _options(Permissions, value.values)
        if value is not None:
            given[one.name] = tuple(value) if isinstance(value, list) else value
    return class_(**given)
