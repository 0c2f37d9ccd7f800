"""Line numbers of keys: the scan of a document finds the same keys as tomllib."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.config.syntax.lines import KeyPath, locate
from ephemeroot.config.syntax.nodes import dotted, quoted

DOCUMENT = '''\
# a comment with [brackets] and = signs
top = 1
"quoted key" = "a # no comment"  # a comment

[root]
wiper = "btrfs"
[root.btrfs]
base = 'x'
deep.er = { a = 1, "b c" = [1, 2] }

[[volumes]]
mount-point = "/a"
options = [
  "x",   # one
  # none
  "y",
]
[volumes.wipe]
wiper = "btrfs"
[[volumes]]
mount-point = """
/b]"""
[[volumes.inner]]
x = 1
[[volumes.inner]]
x = 2

[persistence."/persistent"]
directories = [ "/a", { directory = "/b", parent-directory = { mode = "0700" } },
  { directory = '/c"' } ]
when = 1979-05-27T07:32:00Z
text = \'\'\'it's
"""fine"""\'\'\'
last = "\\"\\\\"
'''


def paths_of(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Every key path in a document, according to tomllib."""
    found = {path} if path else set()
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, child in items:
        found |= paths_of(child, (*path, key))
    return found


def test_finds_every_key() -> None:
    lines = locate(DOCUMENT)
    assert set(lines) == paths_of(tomllib.loads(DOCUMENT))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("top",), "top = 1"),
        (("quoted key",), '"quoted key"'),
        (("root", "btrfs"), "[root.btrfs]"),
        (("root", "btrfs", "deep", "er", "b c", 1), "deep.er"),
        (("volumes", 0, "options", 1), '  "y",'),
        (("volumes", 0, "wipe", "wiper"), 'wiper = "btrfs"'),
        (("volumes", 1, "mount-point"), 'mount-point = """'),
        (("volumes", 1, "inner", 1, "x"), "x = 2"),
        (("persistence", "/persistent", "directories", 2, "directory"), "  { directory = '/c\"'"),
        (("persistence", "/persistent", "last"), "last ="),
    ],
)
def test_finds_the_line_of_each_key(path: KeyPath, text: str) -> None:
    assert DOCUMENT.splitlines()[locate(DOCUMENT)[path] - 1].startswith(text)


def test_accepts_windows_line_ends() -> None:
    text = DOCUMENT.replace("\n", "\r\n")
    assert tomllib.loads(text)
    assert locate(text) == locate(DOCUMENT)


SCALARS = st.one_of(
    st.integers(0, 99).map(str),
    st.sampled_from(["true", "1.5", '"x"', "'#'", '"]"', '"""a\n#b"""', "'''\n]'''", '"\\""']),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + " ,\n # c\n".join(items) + " ]"),
        st.lists(inner.filter(lambda v: "\n" not in v), max_size=3).map(
            lambda items: "{ " + ", ".join(f"k{n} = {v}" for n, v in enumerate(items)) + " }"
        ),
    ),
    max_leaves=6,
)


@given(values=st.lists(st.tuples(st.sampled_from("abc"), VALUES), max_size=5))
def test_finds_every_key_of_any_document(values: list[tuple[str, str]]) -> None:
    text = "".join(f"[[{name}]]\nkey = {value}\n" for name, value in values)
    lines = locate(text)
    assert set(lines) == paths_of(tomllib.loads(text))
    for name, number in ((path, line) for path, line in lines.items() if len(path) == 3):
        assert text.split("\n")[number - 1].startswith("key = "), name


def test_formats_key_paths_as_in_toml() -> None:
    path: KeyPath = ("persistence", "/per sist", "files", 2, "mode")
    assert dotted(path) == 'persistence."/per sist".files[2].mode'
    for key in ("plain", 'a"b\\c', "new\nline", "zoë", ""):
        assert tomllib.loads(f"{quoted(key)} = 1") == {key: 1}
