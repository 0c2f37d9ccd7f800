"""The JSON Schema of the configuration, for editors, from the settings that the reader uses."""

from __future__ import annotations

from ephemeroot.config import plugins
from ephemeroot.config.syntax.kinds import Kind, Schema
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.config.syntax.settings import MATCH, ROOT, TOP, Listed, Named, Setting, Table

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Schema:
    """The schema of all configuration files, with the tables of the installed wipers."""
    top = _table(TOP)
    properties = dict(_properties(top))
    properties["root"] = _root()
    properties["match"] = {
        **_table(MATCH), "description": "only in drop-ins: the machines for which the file is read"
    }  # fmt: skip
    properties["volumes"] = {**_object(properties["volumes"]), "items": _volume()}
    return {"$schema": DRAFT, "title": "Ephemeroot's configuration", **top,
            "properties": properties}  # fmt: skip


def _root() -> Schema:
    root = _table(ROOT)
    # Each drop-in may have a part of it, so no key is required in one file.
    root.pop("required", None)
    properties = dict(_properties(root))
    for plugin in _installed():
        table = _table(plugin.root_table())
        properties[plugin.name] = {**table, "description": f"settings of the wiper {plugin.name}"}
    return {**root, "properties": properties, "description": "how the root is wiped"}


def _volume() -> Schema:
    """A volume, with a variant of ``wipe`` for each wiper."""
    volume = _table(plugins.VOLUME_WITH_WIPE)
    variants = []
    for plugin in _installed():
        table = _table(plugins.volume_table(plugin))
        properties = {**_properties(table), "wiper": {"const": plugin.name}}
        variants.append({**table, "properties": properties})
    if variants:
        wipe = {"description": _object(_properties(volume)["wipe"])["description"],
                "anyOf": variants}  # fmt: skip
        volume["properties"] = {**_properties(volume), "wipe": wipe}
    return volume


def _installed() -> list[plugins.Plugin]:
    found = []
    for name in plugins.names():
        try:
            found.append(plugins.find(name))
        except Mistake:
            continue  # `check` reports it if it is used
    return found


def _table(table: Table) -> Schema:
    result: Schema = {
        "type": "object",
        "properties": {setting.name: _setting(setting) for setting in table.settings},
        "additionalProperties": False,
    }
    required = [setting.name for setting in table.settings if setting.required]
    return {**result, "required": required} if required else result


def _setting(setting: Setting) -> Schema:
    described: Schema = {**_kind(setting.kind), "description": setting.help}
    if isinstance(setting.default, (bool, int, str)):
        described["default"] = setting.default
    return described


def _kind(kind: Kind | Table | Named | Listed) -> Schema:
    if isinstance(kind, Table):
        return _table(kind)
    if isinstance(kind, Named):
        return {
            "type": "object",
            "propertyNames": kind.key.schema(),
            "additionalProperties": _table(kind.table),
        }
    if isinstance(kind, Listed):
        item = _table(kind.table)
        short = kind.table.setting(kind.short)
        if short is not None and isinstance(short.kind, Kind):
            item = {"anyOf": [short.kind.schema(), item]}
        return {"type": "array", "items": item}
    return kind.schema()


def _properties(schema_: Schema) -> Schema:
    return _object(schema_["properties"])


def _object(value: object) -> Schema:
    assert isinstance(value, dict)
    return value
