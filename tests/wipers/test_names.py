"""The names of retired roots: each has one spelling, and all other names are foreign."""

from __future__ import annotations

import calendar
import os
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeroot.wipers import names
from ephemeroot.wipers.btrfs import leftovers
from ephemeroot.wipers.btrfs.leftovers import Leftover
from ephemeroot.wipers.names import LATEST, Name

NAMES = st.builds(
    Name,
    st.integers(0, LATEST),
    st.integers(1, 10**9 - 1),
    unsynced=st.booleans(),
    unused=st.booleans(),
    keep=st.booleans(),
)
FILE_NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: len(text.encode()) <= 255 and text not in (".", ".."))
UUID = "3c2a1b00-0000-4000-8000-00000000002a"


@given(NAMES)
def test_a_written_name_reads_back(name: Name) -> None:
    assert names.parse(str(name)) == name


@given(NAMES)
def test_a_name_has_only_characters_that_zfs_allows(name: Name) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", str(name))


@given(st.integers(0, LATEST))
def test_the_time_is_utc(when: int) -> None:
    written = time.strptime(str(Name(when)), "%Y-%m-%dT%H-%M-%SZ")
    assert calendar.timegm(written) == when


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_clock_gives_a_valid_name(when: float) -> None:
    assert names.parse(str(Name(when))) is not None


def test_the_suffixes_have_one_order() -> None:
    name = Name(0, 2, unsynced=True, unused=True, keep=True)
    assert str(name) == "1970-01-01T00-00-00Z.2.unsynced.unused.keep"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-23T02-15-00",
        "2026-11-23T02:15:00Z",
        "2026-02-29T00-00-00Z",
        "2026-13-01T00-00-00Z",
        "2026-11-23T24-00-00Z",
        "2026-11-23T23-59-60Z",
        "2026-11-23T02-15-00Z.",
        "2026-11-23T02-15-00Z.1",
        "2026-11-23T02-15-00Z.02",
        "2026-11-23T02-15-00Z.keep.unused",
        "2026-11-23T02-15-00Z.keep.keep",
        "2026-11-23T02-15-00Z.mine",
        "2026-11-23T02-15-00Z.99999999999999999999",
        " 2026-11-23T02-15-00Z",
        "2026-11-23T02-15-00Z\n",
        "٢٠٢٦-11-23T02-15-00Z",
        "1969-12-31T23-59-59Z",
        "2024-03-7_09:05:01",
    ],
)
def test_a_different_spelling_is_foreign(text: str) -> None:
    assert names.parse(text) is None


@given(st.text())
def test_no_text_is_read_as_another_name(text: str) -> None:
    name = names.parse(text)
    assert name is None or str(name) == text


@pytest.mark.parametrize("text", ["2024-3-7_09:05:01", "2024-03-7_09:05:01", "2024-12-31_23:59:59"])
def test_recognises_names_of_the_shell_recipe(text: str) -> None:
    assert names.parse_recipe(text) is not None


@pytest.mark.parametrize(
    "text", ["2024-3-7", "2024-3-32_00:00:00", "2024-3-7_9:05:01", "2024-3-7_09:05", "_", "a_b"]
)
def test_names_that_only_resemble_the_recipes_are_foreign(text: str) -> None:
    assert names.parse_recipe(text) is None


@given(NAMES, st.sets(st.integers(1, 5)))
def test_a_free_name_is_unused_and_otherwise_equal(name: Name, numbers: set[int]) -> None:
    taken = {(name.time, number) for number in numbers}
    found = names.free(name, taken)
    assert found.identity not in taken
    assert found == name.at(found.identity)
    assert names.free(found, taken) == found
    assert all(found.number > number for number in numbers)
    assert found == name or numbers


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 20)), st.booleans()), max_size=30),
    st.integers(1, 4),
)
def test_a_name_is_never_reused_after_pruning(
    retirements: list[tuple[int, set[int], bool]], keep: int
) -> None:
    """Roots are retired within a few seconds, and all but the newest *keep* are pruned in between:
    the order of the names stays the order of retirement.
    """
    present: list[Name] = []
    given_away: set[tuple[int, int]] = set()
    now = 1_795_435_200
    for seconds, pruned, unused in retirements:
        now += seconds
        wanted = Name(now, unused=unused)
        name = names.free(wanted, {other.identity for other in present})
        assert name.identity not in given_away
        assert all(name.identity > other.identity for other in present)
        given_away.add(name.identity)
        present.append(name)
        old = present[:-keep]
        present = [n for i, n in enumerate(old) if i not in pruned] + present[-keep:]


SYSTEMS = st.sampled_from(["", "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "2026" * 8])


@given(FILE_NAMES, NAMES, st.sampled_from([UUID, None]), st.booleans(), SYSTEMS)
@example("x" * 135 + "\u20ac" * 10, Name(0), UUID, False, "")  # cut within a character
def test_a_written_temporary_name_reads_back(
    root: str, name: Name, uuid: str | None, read_only: bool, system: str
) -> None:
    text = Leftover(root, name, uuid, read_only=read_only, system=system).text
    assert len(os.fsencode(text)) <= 255
    found = leftovers.parse(root, text)
    assert found is not None
    assert (found.name, found.uuid, found.read_only) == (name, uuid, read_only)
    assert found.system == system[:8]
    assert found.is_of(system)
    assert found.is_of("f" * 32) == (system == "")


@given(FILE_NAMES, FILE_NAMES, NAMES)
def test_leftovers_of_one_root_do_not_belong_to_another(one: str, other: str, name: Name) -> None:
    if one != other:
        text = Leftover(one, name, UUID, read_only=False).text
        assert leftovers.parse(other, text) is None


@pytest.mark.parametrize("rest", ["", "x", "2026-11-23T02-15-00Z", "2026-11-23T02-15-00Z.none.x"])
def test_names_that_only_begin_like_a_temporary_one_are_not_leftovers(rest: str) -> None:
    assert leftovers.parse("root", f".root.ephemeroot.{rest}") is None
