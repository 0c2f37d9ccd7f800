"""Each reader survives every change of a sample: it accepts it or raises its own error."""

from __future__ import annotations

import ast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import proof
from checkout import CHECKOUT
from readers import READERS, Reader

PIECES = (
    b"", b"\0", b"\xff", b"\xc2\xb2", b"\xd9\xa1", b"\n", b"\r\n", b" ", b"\t", b":", b"::::", b"=",
    b"\\", b"\\040", b"\\12", b'"', b"'", b"[", b"]" * 3, b"{", b"}", b"-1", b"9" * 5000, b"1e999",
    b"nan", b"/", b"..", b"/" * 300, b"#", b",", b"+", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"[" * 4000,
)  # fmt: skip
"""They include digits that are not ASCII, numbers that int() refuses, and deep nesting."""


@st.composite
def changed(draw: st.DrawFn, reader: Reader) -> bytes:
    """A sample with up to three pieces replaced by others."""
    raw = draw(st.sampled_from(reader.samples))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        end = start + draw(st.integers(0, 40))
        raw = raw[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=6)) + raw[end:]
    return raw


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_reads_its_samples(reader: Reader) -> None:
    assert all(reader.read(raw) for raw in reader.samples)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@given(data=st.data())
def test_accepts_a_changed_sample_or_refuses_it(reader: Reader, data: st.DataObject) -> None:
    proof.record(f"document for a reader: {reader.name}", 1)
    reader.read(data.draw(changed(reader)))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@given(raw=st.binary(max_size=300))
@example(raw=b"")
@example(raw=b"[" * 100_000)
@example(raw=b"9" * 5000)
def test_accepts_any_bytes_or_refuses_them(reader: Reader, raw: bytes) -> None:
    proof.record(f"document for a reader: {reader.name}", 1)
    reader.read(raw)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_replaces_each_piece_at_each_position(reader: Reader) -> None:
    table = [
        raw[:at] + piece + raw[at + width :]
        for raw in reader.samples
        for at in range(len(raw))
        for piece in PIECES
        for width in (0, len(piece), 1)
    ]
    chosen = proof.sample(table, 400)
    proof.record(f"document for a reader: {reader.name}", len(chosen))
    for raw in chosen:
        reader.read(raw)


@pytest.mark.parametrize("folder", ["hooks", "wipers", "ephemeroot"])
def test_text_is_converted_to_a_number_in_one_function(folder: str) -> None:
    """`str.isdigit` accepts digits that `int` refuses."""
    found = [
        f"{path}:{node.lineno}"
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        if path.name != "values.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("isdigit", "isdecimal", "isnumeric")
    ]
    assert found == [], "use ephemeroot.linux.values.number"
