"""The boot code writes and reads documents like the package json, without importing it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proof
from ephemeroot.linux import documents

TEXT = st.text() | st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=proof.rounds(60, 3000), deadline=None)
def test_writes_the_same_text_as_json(value: object) -> None:
    assert documents.dump(value) == json.dumps(value, sort_keys=True).encode()
    compact = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    assert documents.dump(value, compact=True) == compact
    assert json.loads(documents.dump_lines(value)) == value
    assert documents.parse(documents.dump(value)) == value


def test_a_report_has_a_line_for_each_operation() -> None:
    operation = {"line": "bind /a", "result": "bound"}
    document = {"wipe": {"operations": [operation, operation], "problems": []}, "version": 1}
    assert documents.dump_lines(document).decode().splitlines() == [
        "{",
        ' "version": 1,',
        ' "wipe": {',
        '  "operations": [',
        '   {"line": "bind /a", "result": "bound"},',
        '   {"line": "bind /a", "result": "bound"}',
        "  ],",
        '  "problems": []',
        " }",
        "}",
    ]


DAMAGED = (
    b"", b"{", b'{"a": 1', b'{"a": 1} x', b'{"a": 1}\0', b'{"a": \xff}', b'{"a": "\xff"}', b"[1,]",
    b'{"a": tru}', b'{"a": "\n"}', b'\xef\xbb\xbf{"a": 1}', b"nul", b'{"a": ' + b"9" * 5000 + b"}",
    b"[" * 100_000, b'{"a":' * 100_000, b'{"a" 1}', b'{"\\ud800": "\\u12"}', b"{'a': 1}",
)  # fmt: skip


@given(st.sampled_from(DAMAGED) | st.binary(max_size=12).map(lambda tail: b'{"a": ' + tail))
@settings(max_examples=proof.rounds(60, 3000), deadline=None)
def test_refuses_what_json_refuses(raw: bytes) -> None:
    try:
        expected = json.loads(raw)
    except (ValueError, RecursionError):
        with pytest.raises(ValueError):  # noqa: PT011  # the library's message
            documents.parse(raw)
    else:
        assert repr(documents.parse(raw)) == repr(expected)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_reads_every_encoding_of_json(encoding: str) -> None:
    assert documents.parse('{"a": ["\u00e4"]} \n'.encode(encoding)) == {"a": ["\u00e4"]}


def test_refuses_what_it_cannot_write() -> None:
    for write in (documents.dump, documents.dump_lines):
        with pytest.raises(TypeError, match="not JSON serializable"):
            write({"a": object()})


SOUND = """
import sys
from ephemeroot.linux import documents
found = documents.parse(b'{"a": [1, 2.5, null, "x"]}')
documents.dump(found), documents.dump_lines(found)
assert not {"json", "re"} & sys.modules.keys(), "json is imported"
"""
BROKEN = """
from ephemeroot.linux import documents
for raw in (b'{"a": [1}', b'{', b'{"a": "' + bytes([10]) + b'"}', b'{"a": 1} b'):
    try:
        documents.parse(raw)
    except ValueError as error:
        assert "char" in str(error), error
    else:
        raise AssertionError(raw)
"""


@pytest.mark.parametrize("code", [SOUND, BROKEN])
def test_works_without_the_package_json(code: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
