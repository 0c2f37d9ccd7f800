"""A key of a persistent path is declared once; everything else agrees with that declaration."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from checkout import CHECKOUT
from ephemeroot.config import plugins
from ephemeroot.config.schema import schema
from ephemeroot.config.syntax import kinds, quantities, settings
from ephemeroot.config.syntax.kinds import Kind
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.config.syntax.settings import OPTIONS, Setting
from ephemeroot.errors import Damaged
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.plan import PERSIST_STAGE, WIPE_STAGE
from ephemeroot.linux import values

ACT: dict[str, tuple[type[Operation], ...]] = {
    "directory": (Directory, Overlay),
    "file": (File, Copy, MachineId),
}
LOOKED_UP = {
    "parent-directory": "the operation of the directory above has it",
    "mount-options": "flags are the field `options`, and marks are of the operation `hide`",
    "hide-mounts": "the operation `hide` has it",
    "allow-trash": "the same",
}
"""Keys for which no operation has a field, and why."""

KEYS = [(what, key) for what, class_ in OPTIONS.items() for key in settings.keys(class_)]
each_key = pytest.mark.parametrize(("what", "key"), KEYS, ids=lambda one: getattr(one, "name", one))


def fields_of(what: str, key: Setting) -> list[tuple[type[Operation], values.Option]]:
    return [(kind, one) for kind in ACT[what] for one in kind.FIELDS if one.key == key.name]


@each_key
def test_each_key_is_a_field_of_an_operation_with_the_same_kind(what: str, key: Setting) -> None:
    found = fields_of(what, key)
    assert bool(found) != (key.name in LOOKED_UP)
    for _, one in found:
        assert isinstance(key.kind, Kind)
        if isinstance(one.kind, tuple):
            assert set(one.kind) <= set(key.kind.plan)
        else:
            assert one.kind == key.kind.plan


@each_key
def test_the_plan_refuses_a_value_of_another_kind(what: str, key: Setting) -> None:
    for kind, one in fields_of(what, key):
        sound: dict[str, Any] = {"path": "/x", "store": "/s", "source": "x"}
        names = {option.name for option in kind.FIELDS}
        given = {name: value for name, value in sound.items() if name in names}
        kind(**given)
        with pytest.raises(Damaged, match=one.key):
            kind(**given | {one.name: 3.5})


@each_key
def test_the_schema_of_the_configuration_has_the_key(what: str, key: Setting) -> None:
    found: Any = schema()["properties"]
    stores = found["persistence"]["additionalProperties"]["properties"]
    for table in (stores, stores["users"]["additionalProperties"]["properties"]):
        listed = table[{"directory": "directories", "file": "files"}[what]]["items"]
        written = listed["anyOf"][1]["properties"][key.name]
        assert written["description"] == key.help
        if isinstance(key.kind, Kind):
            assert written.items() >= key.kind.schema().items()


@each_key
def test_the_manual_and_the_reference_have_the_key(what: str, key: Setting) -> None:
    page = (CHECKOUT / "man/ephemeroot.toml.5").read_text()
    assert re.search(rf"^\.It Ic ([a-z-]+ , )*{key.name}\b", page, re.MULTILINE)
    table = reference.text().partition(f"**Keys of a {what} ")[2].partition("\n\n**")[0]
    assert f"| `{key.name}` |" in table
    assert key.help in table


def test_the_reference_has_each_field_of_each_operation() -> None:
    text = reference.text()
    for kind in (*WIPE_STAGE.values(), *PERSIST_STAGE.values()):
        table = text.partition(f"**Operation `{kind.KIND}`**")[2].partition("\n\n**")[0]
        for one in kind.FIELDS:
            assert f"| `{one.key}` | {values.describe(one.kind)} |" in table
            assert one.help in table
    assert reference.MARK in (CHECKOUT / "docs/design.md").read_text()


def test_each_kind_is_that_of_its_class() -> None:
    for stage in (WIPE_STAGE, PERSIST_STAGE):
        assert [stage[word].KIND for word in stage] == list(stage)


def test_slots_and_fields_are_the_same() -> None:
    for kind in (*WIPE_STAGE.values(), *PERSIST_STAGE.values()):
        slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        assert sorted(slots) == sorted(one.name for one in kind.FIELDS)
        assert len({one.name for one in kind.FIELDS}) == len(kind.FIELDS)


def retyped(source: str) -> set[str]:
    """The keys that a class in *source* declares again as fields."""
    names = {one.name for class_ in OPTIONS.values() for one in fields(class_)}
    names -= {"user", "group", "mode", "store"}  # the looked-up form has them, too
    return {
        node.target.id
        for class_ in ast.walk(ast.parse(source))
        if isinstance(class_, ast.ClassDef)
        for node in class_.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id in names
    }


def test_no_class_between_configuration_and_plan_declares_a_key_again() -> None:
    for folder in ("config", "plan"):
        for file in (CHECKOUT / "ephemeroot" / folder).rglob("*.py"):
            if file.name != "settings.py":
                assert not retyped(file.read_text()), file
    assert retyped("class Declared:\n    method: str\n    place: int\n") == {"method"}


WRITTEN = [
    kinds.Boolean(), kinds.Integer(), kinds.Days(), kinds.Text(), kinds.Choice(("one", "two")),
    kinds.AbsolutePath(), kinds.HomePath(), kinds.InnerPath(), kinds.Mode(), quantities.Seconds(),
    quantities.Patience(), quantities.Size(), quantities.Amount(), kinds.Dataset(), kinds.Strings(),
    kinds.Patterns(), kinds.Options(), kinds.BindOptions(), *plugins.KINDS.values(),
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(
        ("0", "1", "/", "/a//b/", "one", "10%", "2G", "0750", "u=rwx", "tank/a", "10s")
    ),
    st.text(max_size=6),
)
VALUES = st.one_of(st.booleans(), st.integers(), TEXTS, st.lists(TEXTS, max_size=2))


@given(kind=st.sampled_from(WRITTEN), value=VALUES)
def test_an_accepted_value_fits_the_plan(kind: Kind, value: object) -> None:
    try:
        parsed = kind.parse(value)
    except Mistake:
        return
    assert values.fits(kind.plan, parsed)


def test_every_kind_of_a_wipers_option_is_in_the_vocabulary() -> None:
    assert set(plugins.KINDS) <= set(values.CHECKS)
    for word, kind in plugins.KINDS.items():
        assert kind.plan in (word, {"string": "text", "volume": "absolute path"}.get(word))
