"""passwd, group, shadow and gshadow: damage that would lock users out, and users that a newer base
adds.
"""

from __future__ import annotations

import pytest

from ephemeroot.hooks.store.accounts import GROUP, GSHADOW, PASSWD, SHADOW, Merger, defect

STORE = {
    PASSWD: b"root:x:0:0:root:/root:/bin/bash\neve:x:1000:1000::/home/eve:/bin/sh\n",
    GROUP: b"root:x:0:\nssl:x:101:eve\neve:x:1000:\n",
    SHADOW: b"root:$y$mine:1:0:99999:7:::\neve:$y$hers:1:0:99999:7:::\n",
    GSHADOW: b"root:*::\nssl:!::eve\neve:!::\n",
}
BASE = {
    PASSWD: b"root:x:0:0:root:/root:/bin/bash\nsql:x:990:991::/:/bin/false\n"
    b"installer:x:1001:1001::/home/installer:/bin/sh\n",
    GROUP: b"root:x:0:\nssl:x:101:sql\nsql:x:991:\ninstaller:x:1001:\n",
    SHADOW: b"root:*:1:0:99999:7:::\nsql:!:2::::::\ninstaller:$y$x:1:0:99999:7:::\n",
    GSHADOW: b"root:*::\nssl:!::sql\nsql:!::\ninstaller:!::\n",
}


def after(store: dict[str, bytes], base: dict[str, bytes] = BASE) -> dict[str, bytes]:
    merger = Merger(store, base)
    return {path: merger.merge(path)[0] for path in store}


def test_adds_system_users_of_the_base_but_not_people() -> None:
    merged = after(STORE)
    assert merged[PASSWD] == STORE[PASSWD] + b"sql:x:990:991::/:/bin/false\n"
    assert merged[GROUP] == b"root:x:0:\nssl:x:101:eve,sql\neve:x:1000:\nsql:x:991:\n"
    assert merged[SHADOW] == STORE[SHADOW] + b"sql:!:2::::::\n"
    assert merged[GSHADOW] == b"root:*::\nssl:!::eve,sql\neve:!::\nsql:!::\n"


def test_a_second_merge_adds_nothing() -> None:
    merged = after(STORE)
    assert after(merged) == merged


@pytest.mark.parametrize("done", [[GROUP], [GROUP, GSHADOW], [GROUP, GSHADOW, PASSWD]])
def test_completes_a_merge_that_a_power_cut_interrupted(done: list[str]) -> None:
    whole = after(STORE)
    torn = STORE | {path: whole[path] for path in done}
    assert after(torn) == whole


def test_two_names_never_share_a_number() -> None:
    mine = STORE | {PASSWD: STORE[PASSWD] + b"own:x:990:990::/:/bin/false\n"}
    merger = Merger(mine, BASE)
    content, added = merger.merge(PASSWD)
    assert content == mine[PASSWD]
    assert added == []
    assert merger.merge(SHADOW)[0] == STORE[SHADOW]
    assert merger.conflicts == ["user sql: another user has its id 990"]


@pytest.mark.parametrize("number", [b"991", b"100"])
def test_no_user_of_a_base_gets_a_group_of_the_store(number: bytes) -> None:
    """The same number is another group in the store: its files would become accessible."""
    base = BASE | {PASSWD: BASE[PASSWD].replace(b":991:", b":%s:" % number)}
    same = {GROUP: STORE[GROUP] + b"sql:x:%s:\n" % number}
    other = {GROUP: STORE[GROUP] + b"backup:x:%s:\n" % number}
    if number == b"100":
        base[GROUP] = BASE[GROUP].replace(b":991:", b":100:")
    assert b"sql:x:990" in after(STORE | same, base)[PASSWD]
    merger = Merger(STORE | other, base)
    assert merger.merge(PASSWD)[0] == STORE[PASSWD]
    assert (
        f"user sql: its primary group {number.decode()} is another group here" in merger.conflicts
    )


def test_accepts_a_store_with_shadow_only() -> None:
    only = dict.fromkeys(STORE, b"") | {SHADOW: STORE[SHADOW]}
    assert Merger(only, BASE).merge(SHADOW)[0] == STORE[SHADOW] + b"sql:!:2::::::\n"


def test_completes_a_last_line_without_a_newline() -> None:
    mine = STORE | {PASSWD: STORE[PASSWD].rstrip(b"\n")}
    assert after(mine)[PASSWD] == STORE[PASSWD] + b"sql:x:990:991::/:/bin/false\n"


@pytest.mark.parametrize("path", [PASSWD, GROUP, SHADOW])
@pytest.mark.parametrize("content", [b"", b"eve:x:1000:1000::/:/bin/sh\n", b"ro", b"root\n"])
def test_refuses_account_files_that_lock_all_users_out(path: str, content: bytes) -> None:
    assert defect(path, content)
    assert not defect(path, STORE[path])


@pytest.mark.parametrize("path", [PASSWD, GROUP, SHADOW, GSHADOW])
def test_ignores_the_zeros_of_a_torn_write(path: str) -> None:
    assert "NUL" in defect(path, STORE[path] + b"\0" * 100)


def test_an_unknown_line_does_not_lose_the_others() -> None:
    assert not defect(PASSWD, STORE[PASSWD] + b"+::::::\nnonsense\n")
