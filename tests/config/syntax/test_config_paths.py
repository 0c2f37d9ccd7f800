"""Paths in the configuration."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.linux import units
from ephemeroot.linux.values import is_path

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=6)
SLASHES = st.integers(1, 3).map(lambda n: "/" * n)


@given(names=PATHS, data=st.data())
def test_removes_redundant_slashes_and_dots(names: list[str], data: st.DataObject) -> None:
    text = ""
    for name in names:
        text += data.draw(SLASHES) + data.draw(st.sampled_from(["", "./"])) + name
    text += data.draw(st.sampled_from(["", "/", "//", "/."]))
    assert clean.absolute(text) == "/" + "/".join(names)


@given(text=st.text(max_size=40))
def test_every_accepted_path_is_valid_in_a_plan(text: str) -> None:
    try:
        path = clean.absolute(text)
    except Mistake:
        return
    assert is_path(path)
    assert clean.absolute(path) == path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("var/log", "not an absolute path"),
        ("./var", "not an absolute path"),
        ("~/Downloads", "not an absolute path"),
        ("$HOME/Downloads", "not an absolute path"),
        ("/var/../etc", "contains '..'"),
        ("/..", "contains '..'"),
        ("/a\0b", "NUL"),
        ("/" + "n" * 256, "longer than 255 bytes"),
        ("/" + "ü" * 128, "longer than 255 bytes"),
        ("/name" * 820, "longer than 4095 bytes"),
    ],
)
def test_refuses_bad_absolute_paths(text: str, reason: str) -> None:
    with pytest.raises(Mistake, match=reason) as caught:
        clean.absolute(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["/var/..log", "/a b", "/zoë", "/new\nline", "/*", "/~", "/-x"])
def test_accepts_unusual_but_valid_paths(text: str) -> None:
    assert clean.absolute(text) == text


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("/home/talyz/x", "is absolute", "remove the home"),
        ("~/.ssh", "home directory, which is not expanded", "write '.ssh'"),
        ("$HOME/.ssh", "home directory, which is not expanded", "write '.ssh'"),
        ("${HOME}/.ssh", "home directory, which is not expanded", "write '.ssh'"),
        ("~", "home directory, which is not expanded", "relative to the home"),
        (".", "is the home itself", "declare the path of the home"),
        ("../x", "contains '..'", "write the resulting path"),
        ("", "is empty", "write the path"),
    ],
)
def test_refuses_bad_paths_below_a_home(text: str, reason: str, hint: str) -> None:
    with pytest.raises(Mistake, match=reason.replace(".", r"\.")) as caught:
        clean.below_home(text)
    assert hint in caught.value.hint


@given(names=PATHS)
def test_parents_are_the_components_above_the_path(names: list[str]) -> None:
    path = "/" + "/".join(names)
    parents = clean.parents(path)
    assert len(parents) == len(names) - 1
    assert all(path.startswith(f"{parent}/") for parent in parents)
    assert parents == sorted(parents, key=len)


@given(first=PATHS, second=PATHS)
def test_parents_sort_before_their_content(first: list[str], second: list[str]) -> None:
    one, other = "/" + "/".join(first), "/" + "/".join(second)
    if clean.is_below(one, other) and one != other:
        assert clean.components(other) < clean.components(one)
    assert clean.is_below(one, "/")
    assert clean.is_below(one, one)
    assert not clean.is_below(one, f"{one}x")


@given(names=st.lists(NAMES, max_size=6))
def test_escaped_unit_names_can_be_unescaped(names: list[str]) -> None:
    path = "/" + "/".join(names)
    assert units.unescape_path(units.escape_path(path)) == path


@given(names=st.lists(NAMES, max_size=4))
def test_unit_names_are_valid_names_in_a_plan(names: list[str]) -> None:
    escaped = units.escape_path("/" + "/".join(names))
    assert "/" not in escaped
    assert escaped not in ("", ".", "..")


@pytest.mark.parametrize("name", ["", "a--b", "\\x", "\\xzz", "a\\x2", "-a", "a b", "\\x61"])
def test_names_that_are_not_escaped_paths_are_recognised(name: str) -> None:
    with pytest.raises(ValueError, match="is not an escaped path"):
        units.unescape_path(name)


@pytest.mark.requires_program("systemd-escape")
@pytest.mark.parametrize(
    "path", ["/", "/persistent", "/data/per-sistent", "/.hidden/x", "/a b", "/zoë", "/a:b_c.d~@"]
)
def test_escapes_unit_names_like_systemd(path: str) -> None:
    run = subprocess.run(["systemd-escape", "--path", path], check=True, capture_output=True)
    assert units.escape_path(path) == run.stdout.decode().removesuffix("\n")
    run = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", path], check=True, capture_output=True
    )
    assert units.mount_unit(path) == run.stdout.decode().removesuffix("\n")
