"""Whatever the account files of a base contain, the lines of the store stay, and no second user
with UID 0 is added.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ephemeroot.hooks.store.accounts import GROUP, GSHADOW, PASSWD, SHADOW, Merger

FILES = (PASSWD, GROUP, SHADOW, GSHADOW)
FIELDS = {PASSWD: 7, GROUP: 4, SHADOW: 9, GSHADOW: 4}

NAMES = st.sampled_from([
    b"root", b"toor", b"sql", b"eve", b"ssl", b"x" * 32, b"x" * 33, b"pc$", b"$", b"",
    b"+", b"-", b"+sql", b"-sql", b"+@group", b"sq l", b"sql\t", b"s\xc3\xa9", b"sql\r", b"\0",
    b"0", b"sql ", b" sql", b"Sql", b"a/b", b"..", b"#sql",
])  # fmt: skip
NUMBERS = st.sampled_from([
    b"0", b"00", b"+0", b"-0", b"0x0", b" 0", b"0 ", b"", b"1", b"990", b"0990", b"+990", b"991",
    b"999", b"1000", b"4294967295", b"4294967296", b"18446744073709551616", b"9" * 5000, b"-1",
    b"1.5", b"\xd9\xa0", b"x",
])  # fmt: skip
OTHERS = st.sampled_from([
    b"", b"x", b"*", b"!", b"/", b"/bin/sh", b"sql", b"root,sql", b"sql,sql,,eve", b"sql,toor",
    b"y" * 5000, b"\r", b"\0", b"\x1b[2J",
])  # fmt: skip


@st.composite
def lines(draw: st.DrawFn, path: str) -> bytes:
    """A line of *path*, usually with the right number of fields."""
    count = draw(st.sampled_from([FIELDS[path]] * 6 + [0, 1, 2, 3, FIELDS[path] - 1, 8, 12]))
    fields = [draw(NAMES), draw(OTHERS)]
    fields += [draw(NUMBERS if n in (2, 3) and path in (PASSWD, GROUP) else OTHERS)
               for n in range(2, count)]  # fmt: skip
    if path == GROUP and len(fields) == 4:
        fields[3] = draw(OTHERS)
    return b":".join(fields[:count])


def files(path: str) -> st.SearchStrategy[bytes]:
    end = st.sampled_from([b"\n", b"", b"\n\n", b"\r\n"])
    return st.tuples(st.lists(lines(path), max_size=6), end).map(
        lambda made: b"\n".join(made[0]) + made[1]
    )


def sets() -> st.SearchStrategy[dict[str, bytes]]:
    return st.fixed_dictionaries({path: files(path) for path in FILES})


def split(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line]


def as_number(text: bytes) -> int | None:
    """The number as a careless program reads it (strtol(3))."""
    text = text.strip()
    digits = text.lstrip(b"+-")
    plain = digits[: len(digits) - len(digits.lstrip(b"0123456789"))]
    return int(plain[:20]) if plain else None


def judge(store: dict[str, bytes], base: dict[str, bytes]) -> dict[str, bytes]:
    """Check each rule on the merged files."""
    merger = Merger(store, base)
    merged = {path: merger.merge(path)[0] for path in FILES}
    for path in FILES:
        before, after = split(store[path]), split(merged[path])
        kept, added = after[: len(before)], after[len(before) :]
        for old, new in zip(before, kept, strict=True):
            if old != new:
                # A group of the store may get members that were just added, at its end.
                assert path in (GROUP, GSHADOW)
                assert old.split(b":")[:3] == new.split(b":")[:3]
                had, has = (line.split(b":")[3].split(b",") for line in (old, new))
                had = [m for m in had if m]
                assert has[: len(had)] == had
                newcomers = {line.split(b":")[0] for line in split(merged[PASSWD])}
                newcomers -= {line.split(b":")[0] for line in split(store[PASSWD])}
                assert set(has[len(had) :]) <= newcomers
                assert len(set(has[len(had) :])) == len(has) - len(had)
                if path == GROUP:
                    assert as_number(old.split(b":")[2]) != 0
        names = [line.split(b":")[0] for line in added]
        assert len(set(names)) == len(names)
        assert not set(names) & {line.split(b":")[0] for line in before}
        assert set(added) <= set(split(base[path]))
        for line in added:
            fields = line.split(b":")
            assert len(fields) == FIELDS[path]
            assert fields[0].strip(b"+-\0\r\t ") == fields[0] != b""
            if path in (PASSWD, GROUP):
                assert 0 < int(fields[2]) < 1000
                taken = {as_number(f[2]) for other in before if len(f := other.split(b":")) > 2}
                assert int(fields[2]) not in taken
            if path == PASSWD:
                assert as_number(fields[3]) not in (0, None)
        if path in (PASSWD, GROUP):
            numbers = [int(line.split(b":")[2]) for line in added]
            assert len(set(numbers)) == len(numbers)
    return merged


STORE = {
    PASSWD: b"root:x:0:0:root:/root:/bin/bash\neve:x:1000:1000::/home/eve:/bin/sh\n",
    GROUP: b"root:x:0:\nssl:x:101:eve\neve:x:1000:\n",
    SHADOW: b"root:$y$mine:1:0:99999:7:::\neve:$y$hers:1:0:99999:7:::\n",
    GSHADOW: b"root:*::\nssl:!::eve\neve:!::\n",
}
SQL = b"sql:x:990:991::/:/bin/false\n"
EMPTY = dict.fromkeys(FILES, b"")


def base(**contents: bytes) -> dict[str, bytes]:
    return EMPTY | {f"/etc/{name}": content for name, content in contents.items()}


@given(sets(), sets())
@example(STORE, base(passwd=SQL + SQL.replace(b"990", b"0")))
@example(STORE, base(passwd=SQL.replace(b"990", b"0") + SQL))
@example(STORE, base(passwd=SQL.replace(b"990", b"00")))
@example(STORE, base(passwd=SQL + b"toor:x:990:990::/:/bin/sh\n"))
@example(STORE, base(passwd=SQL.replace(b"991", b"0")))
@example(STORE, base(passwd=b"+::::::\n" + SQL))
@example(STORE, base(passwd=SQL.replace(b"990", b"9" * 5000)))
@example(STORE | {PASSWD: STORE[PASSWD] + b"+::0:0:::\n"}, base(passwd=SQL))
@example(STORE | {PASSWD: STORE[PASSWD] + b"own:x:00990:1\n"}, base(passwd=SQL))
@example(STORE, base(passwd=SQL, group=b"root:x:0:sql\nssl:x:101:sql\nssl:x:0:sql\n"))
@example(STORE, base(group=b"sql:x:991:\nsql:x:0:eve\n", gshadow=b"sql:!::\nsql:!::eve\n"))
@example(STORE, base(passwd=SQL, shadow=b"sql:!:2::::::\nsql::2::::::\nroot::1:0:99999:7:::\n"))
@example(STORE | {SHADOW: b""}, base(passwd=b"root:x:990:1::/:/\n", shadow=b"root::2::::::\n"))
def test_no_line_of_a_base_harms_the_store(store: dict[str, bytes], base: dict[str, bytes]) -> None:
    merged = judge(store, base)
    # A second merge adds nothing.
    assert judge(merged, base) == merged


@pytest.mark.parametrize("sign", [b"", b"+", b"-"])
@pytest.mark.parametrize("zeros", [b"", b"0", b"000"])
@pytest.mark.parametrize("end", [b"", b" ", b".5", b"x", b"\t9", b"\r"])
@pytest.mark.parametrize("path", [PASSWD, GROUP])
def test_a_number_of_the_store_is_in_use_however_it_is_written(
    path: str, sign: bytes, zeros: bytes, end: bytes
) -> None:
    written = b"sql:x:" + sign + zeros + b"991" + end + b":991::/:/\n"
    newcomer = b"other:x:991:992::/:/\n" if path == PASSWD else b"other:x:991:\n"
    merger = Merger(
        STORE | {path: STORE[path] + written}, base(**{path.removeprefix("/etc/"): newcomer})
    )
    assert b"other" not in merger.merge(path)[0]
    assert len(merger.conflicts) == 1


def test_the_first_line_of_a_name_is_used() -> None:
    merged = judge(STORE, base(passwd=SQL + SQL.replace(b"990", b"0")))
    assert merged[PASSWD] == STORE[PASSWD] + SQL


def test_the_users_of_an_ordinary_base_are_added() -> None:
    merged = judge(STORE, base(
        passwd=SQL, group=b"sql:x:991:\nssl:x:101:sql\n", shadow=b"sql:!:2::::::\n",
        gshadow=b"sql:!::\nssl:!::sql\n",
    ))  # fmt: skip
    assert merged == {
        PASSWD: STORE[PASSWD] + SQL,
        GROUP: b"root:x:0:\nssl:x:101:eve,sql\neve:x:1000:\nsql:x:991:\n",
        SHADOW: STORE[SHADOW] + b"sql:!:2::::::\n",
        GSHADOW: b"root:*::\nssl:!::eve,sql\neve:!::\nsql:!::\n",
    }
