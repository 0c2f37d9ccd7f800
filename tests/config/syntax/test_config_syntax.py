"""Text that is not TOML is reported with its line and a hint."""

from __future__ import annotations

import sys

import pytest

from ephemeroot.config.syntax import toml
from ephemeroot.config.syntax.lines import locate

BEFORE = "# one\n[root]\n"
DEEP = toml.DEEPEST + 1
LARGE = {"64 bits": str(1 << 63), "below": str(-(1 << 63) - 1), "5,000 digits": "9" * 5000,
         "hexadecimal": "0xffffffffffffffffff", "underscores": "9_" * 5000 + "9"}  # fmt: skip
NUMBERS = [
    *((f"key = {number}", name) for name, number in LARGE.items()),
    *((f'list = [1,\n\n"x", {number}]', f"{name} in a list") for name, number in LARGE.items()),
    *((f"table = {{ a = 1, b = {number} }}", f"{name} inline") for name, number in LARGE.items()),
]
NESTED = [
    ("key = " + "[" * DEEP + "]" * DEEP, "lists"),
    ("key = " + "[" * 5000 + "]" * 5000, "very many lists"),
    ("key = " + "{ a = " * DEEP + "1" + " }" * DEEP, "inline tables"),
    ('key = "[[[[" # [[[[\nother = ' + "[" * DEEP + "]" * DEEP, "lists after brackets in a string"),
    ("[" + ".".join("a" * DEEP) + "]", "a header"),
    (".".join("a" * DEEP) + " = 1", "a key"),
    ("[" + ".".join("a" * 20) + "]\n" + ".".join("b" * 20) + " = 1", "a header and a key"),
]
INVALID = [
    "key = yes", "key =", "key", "= 1", "key = 1 2", "key = 'a", 'key = "a', 'key = "\\q"',
    "key = [1", "key = { a = 1", "[table", "[[table]", "[a]\n[b]\n[a]", "key = 1\nkey = 2",
    "a.b = 1\na = 2", "a = { b = 1 }\na.c = 2", "key = 1.", "key = 2026-13-01", "key = 'a\x01'",
    "a = 1\n[[root.a]]", "ключ = 1", "a: 1", "key = 1; other = 2", 'key = """', "key = [1 2]",
]  # fmt: skip


def mistake(content: bytes) -> toml.SyntaxMistake:
    with pytest.raises(toml.SyntaxMistake) as raised:
        toml.parse(content)
    assert raised.value.hint
    return raised.value


@pytest.mark.parametrize(("text", "name"), NUMBERS, ids=[name for _, name in NUMBERS])
def test_reports_the_line_of_a_number_out_of_range(text: str, name: str) -> None:
    found = mistake((BEFORE + text + "\nlast = 1\n").encode())
    assert found.reason == "the file has a number that does not fit into 64 bits"
    assert found.line == 3 + text.count("\n")


@pytest.mark.parametrize(("text", "name"), NESTED, ids=[name for _, name in NESTED])
def test_reports_the_line_of_nesting_that_is_too_deep(text: str, name: str) -> None:
    found = mistake((BEFORE + text + "\nlast = 1\n").encode())
    assert found.reason == f"the file is nested more than {toml.DEEPEST} levels deep"
    assert found.line == 3 + text.count("\n")


@pytest.mark.parametrize("text", INVALID)
def test_reports_the_line_of_invalid_toml_without_python_terms(text: str) -> None:
    found = mistake((BEFORE + text + "\n").encode())
    assert found.reason.startswith("the file is not valid TOML: ")
    assert "('" not in found.reason
    assert found.line is not None
    assert 3 <= found.line <= 3 + text.count("\n") + 1


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_names_another_encoding_without_a_byte_order_mark(encoding: str) -> None:
    found = mistake(BEFORE.encode(encoding))
    assert (found.reason, found.line) == ("the file contains NUL bytes", 1)
    assert "UTF-16" in found.hint


@pytest.mark.parametrize("line", range(1, 4))
def test_names_the_line_where_an_interrupted_write_ends(line: int) -> None:
    found = mistake(b"a = 1\n".replace(b"a", b"a" * line) * (line - 1) + bytes(512))
    assert (found.reason, found.line) == ("the file contains NUL bytes", line)


def test_the_limit_of_digits_is_not_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.get_int_max_str_digits()
    try:
        for limit in (0, 640, 4300):
            sys.set_int_max_str_digits(limit)
            assert mistake(b"key = " + b"9" * 800).line == 1
    finally:
        sys.set_int_max_str_digits(before)


def test_valid_documents_stay_within_the_allowed_depth() -> None:
    text = "key = " + "[" * (toml.DEEPEST - 1) + "]" * (toml.DEEPEST - 1) + "\n"
    document, same = toml.parse(text.encode())
    assert same == text
    assert locate(text)[("key",)] == 1
    assert document["key"] is not None
