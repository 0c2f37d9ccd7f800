"""The JSON Schema agrees with the reader of the configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemeroot.config.schema import schema
from machine_tree import MAIN, SOUND, MachineTree

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int
}  # fmt: skip
KNOWN = {
    "$schema", "title", "description", "default", "type", "enum", "const", "anyOf", "properties",
    "additionalProperties", "required", "propertyNames", "items", "pattern", "minLength",
    "minimum", "maximum",
}  # fmt: skip

WHOLE = (
    SOUND
    + """
[on-failure]
wipe = "reboot"
[[volumes]]
mount-point = "/home"
device = "LABEL=x"
type = "btrfs"
options = ["subvol=home"]
timeout = "10s"
wipe = { wiper = "btrfs", old-roots = "old_homes", keep-days = 3 }
[persistence."/persistent".users.talyz]
directories = ["x", { directory = "y", mode = "0700", parent-directory = { user = 0 } }]
files = [{ file = "z", method = "copy", initial = "empty" }]
"""
)


def complaints(value: object, wanted: Any, path: str = "") -> Iterator[str]:
    """The errors of a JSON Schema validator, limited to the parts of the standard that our schema
    uses.
    """
    assert set(wanted) <= KNOWN, set(wanted) - KNOWN
    types = wanted.get("type", [])
    types = types if isinstance(types, list) else [types]
    if types and not any(_is(value, name) for name in types):
        yield f"{path}: no {types}"
        return
    if "enum" in wanted and value not in wanted["enum"]:
        yield f"{path}: not in {wanted['enum']}"
    if "const" in wanted and value != wanted["const"]:
        yield f"{path}: not {wanted['const']}"
    if "anyOf" in wanted and all(any(complaints(value, one, path)) for one in wanted["anyOf"]):
        yield f"{path}: none of several"
    if isinstance(value, str):
        if len(value) < wanted.get("minLength", 0):
            yield f"{path}: too short"
        if "pattern" in wanted and not re.search(wanted["pattern"], value):
            yield f"{path}: not like {wanted['pattern']}"
    elif isinstance(value, int):
        if not wanted.get("minimum", value) <= value <= wanted.get("maximum", value):
            yield f"{path}: out of range"
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from complaints(item, wanted.get("items", {}), f"{path}[{number}]")
    elif isinstance(value, dict):
        yield from _of_table(value, wanted, path)


def _is(value: object, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (name == "integer" and isinstance(value, bool))


def _of_table(value: dict[str, object], wanted: Any, path: str) -> Iterator[str]:
    for key in wanted.get("required", ()):
        if key not in value:
            yield f"{path}: lacks {key}"
    for key, child in value.items():
        yield from complaints(key, wanted.get("propertyNames", {}), f"{path}.{key}")
        other = wanted.get("additionalProperties", {})
        below = wanted.get("properties", {}).get(key, other)
        if below is False:
            yield f"{path}.{key}: unknown"
        else:
            yield from complaints(child, below, f"{path}.{key}")


def test_a_valid_configuration_fits_the_schema(tmp_path: Path) -> None:
    assert MachineTree(tmp_path, WHOLE).errors() == []
    assert list(complaints(tomllib.loads(WHOLE), schema())) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[on-failure]", "[on-failures]"),
        ('wipe = "reboot"', 'wipe = "halt"'),
        ("keep-days = 3", 'keep-days = "3"'),
        ("keep-days = 3", "keep-day = 3"),
        ('wiper = "btrfs", old', 'wiper = "btrsf", old'),
        ('type = "btrfs"', ""),
        ('"0700"', "700"),
        ('"0700"', '"rwx"'),
        ("user = 0", "users = 0"),
        ('["x", {', '["/x", {'),
        ('"/var/log"', '"var/log"'),
        ('"/var/log"', "3"),
        ('method = "copy"', 'method = "overlay"'),
        ('base = "root-base"', "base = 1"),
        ('base = "root-base"', 'bass = "root-base"'),
        ('timeout = "10s"', "timeout = -1"),
        ('[persistence."/persistent".users', '[persistence."persistent".users'),
    ],
)
def test_the_reader_refuses_whatever_the_schema_refuses(tmp_path: Path, old: str, new: str) -> None:
    assert old in WHOLE
    text = WHOLE.replace(old, new)
    assert list(complaints(tomllib.loads(text), schema()))
    tree = MachineTree(tmp_path, text)
    assert tree.errors()
    assert (tmp_path / MAIN).read_text() == text


def test_every_key_is_described() -> None:
    def undescribed(table: Any, path: str) -> Iterator[str]:
        for key, child in table.get("properties", {}).items():
            if "description" not in child and "const" not in child:
                yield f"{path}.{key}"
            yield from undescribed(child, f"{path}.{key}")
        for below in [table.get("items"), table.get("additionalProperties"),
                      *table.get("anyOf", [])]:  # fmt: skip
            if isinstance(below, dict):
                yield from undescribed(below, f"{path}[]")

    assert list(undescribed(schema(), "")) == []


def test_the_schema_is_reproducible() -> None:
    assert schema() == schema()
