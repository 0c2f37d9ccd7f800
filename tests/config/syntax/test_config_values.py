"""Single values: which text each kind accepts and refuses, and its messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.config.syntax import clean, kinds, quantities
from ephemeroot.config.syntax.problem import Mistake

ANYTHING = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)
ALL = [
    kinds.Boolean(), kinds.Integer(), kinds.Text(), kinds.Choice(("one", "two")),
    kinds.AbsolutePath(), kinds.HomePath(), kinds.InnerPath(), kinds.Mode(),
    kinds.Account("user"), quantities.Seconds(), quantities.Size(), quantities.Amount(),
    kinds.Strings(),
    kinds.Patterns(), kinds.Options(), kinds.BindOptions(),
]  # fmt: skip


@given(kind=st.sampled_from(ALL), value=ANYTHING)
def test_every_kind_parses_or_reports_the_fault(kind: kinds.Kind, value: object) -> None:
    try:
        answer = kind.parse(value)
    except Mistake as mistake:
        answer = mistake.reason or None
    assert answer is not None


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (kinds.Boolean(), False, False),
        (kinds.Integer(), 0, 0),
        (quantities.Seconds(), 90, 90),
        (quantities.Seconds(), "10s", 10),
        (quantities.Seconds(), "10", 10),
        (quantities.Seconds(), "1min 30s", 90),
        (quantities.Seconds(), "1h", 3600),
        (quantities.Size(), 4096, 4096),
        (quantities.Size(), "512M", 512 << 20),
        (quantities.Size(), "2GiB", 2 << 30),
        (quantities.Amount(), "10 %", "10%"),
        (quantities.Amount(), "2G", str(2 << 30)),
        (kinds.Account("user"), "talyz", "talyz"),
        (kinds.Account("user"), 0, 0),
        (kinds.InnerPath(), "/@/old", "@/old"),
        (kinds.Patterns(), "a*", ["a*"]),
        (kinds.Options(), ["subvol=x", "size=1,5"], ["subvol=x", "size=1,5"]),
        (kinds.BindOptions(), ["ro", "noexec", "x-gvfs-name=a"], ["ro", "noexec", "x-gvfs-name=a"]),
    ],
)
def test_accepts_good_values(kind: kinds.Kind, value: object, parsed: object) -> None:
    assert kind.parse(value) == parsed


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (kinds.Boolean(), "yes", "must be true or false, not a string"),
        (kinds.Boolean(), 1, "must be true or false, not a number"),
        (kinds.Integer(), -1, "must not be negative"),
        (kinds.Integer(), True, "must be a whole number, not a boolean"),
        (kinds.Integer(), 1.5, "must be a whole number, not a fraction"),
        (kinds.Text(), "", "must not be empty"),
        (kinds.Text(), [], "must be a string, not a list"),
        (kinds.Choice(("bind", "symlink")), "simlink", "'simlink' is unknown: the value must be"),
        (quantities.Seconds(), 0, "not between 1 second and a day"),
        (quantities.Seconds(), "2d", "is not a time"),
        (quantities.Seconds(), "soon", "is not a time"),
        (quantities.Size(), "12 apples", "is not a size"),
        (quantities.Size(), "10%", "is not a size"),
        (quantities.Amount(), "110%", "more than 100%"),
        (kinds.Account("user"), 2**32 - 1, "is not the number of a user"),
        (kinds.Account("group"), -1, "is not the number of a group"),
        (kinds.InnerPath(), "/", "is the root directory"),
        (kinds.InnerPath(), "a/../b", "contains '..'"),
        (kinds.Options(), "noatime,ro", "must be a list, not a string"),
        (kinds.Options(), ["noatime,ro"], "contains several options"),
        (kinds.BindOptions(), ["compress=zstd"], "is not an option of a bind mount"),
    ],
)
def test_refuses_bad_values(kind: kinds.Kind, value: object, reason: str) -> None:
    with pytest.raises(Mistake) as caught:
        kind.parse(value)
    assert reason in caught.value.reason


def test_hints_say_what_to_write() -> None:
    with pytest.raises(Mistake) as caught:
        kinds.Options().parse("noatime,ro")
    assert caught.value.hint == 'write ["noatime", "ro"]'
    with pytest.raises(Mistake) as caught:
        kinds.Boolean().parse("yes")
    assert caught.value.hint == "write true without quotes"
    with pytest.raises(Mistake) as caught:
        kinds.Choice(("bind", "symlink")).parse("simlink")
    assert caught.value.hint == "did you mean `symlink`?"


@pytest.mark.parametrize(
    "word", ["hide-mount", "hideMounts", "hide_mounts", "hide-mounst", "HIDE-MOUNTS"]
)
def test_suggests_a_similar_value(word: str) -> None:
    assert clean.meant(word, ["directories", "hide-mounts"]) == "did you mean `hide-mounts`?"


def test_lists_all_values_if_no_value_is_similar() -> None:
    assert clean.meant("xyz", ["directories", "files"]) == "known: directories, files"
