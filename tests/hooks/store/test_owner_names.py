"""The number of an owner now belongs to another name: each boot, `rehearse` and `base run` report
it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from boot import Boot, directory, parent
from ephemeroot.base import owners

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

OLD = "root:x:0:0::/:/bin/sh\nsvc:x:120:130::/:/bin/false\n"
GROUPS = "root:x:0:\nsvc:x:130:\n"

# passwd and group of the new base, and the message about /srv/data, which belongs to 120:130.
CASES: dict[str, tuple[str, str, list[str]]] = {
    "the same": (OLD, GROUPS, []),
    "another has the number": (
        "root:x:0:0::/:/bin/sh\nwww:x:120:130::/:/bin/false\nsvc:x:121:130::/:/bin/false\n",
        GROUPS,
        ["the user 120, whose name was svc and is now www"],
    ),
    "another group": (OLD, "root:x:0:\nwww:x:130:\nsvc:x:131:\n",
                      ["the group 130, whose name was svc and is now www"]),
    "both": (
        "root:x:0:0::/:/bin/sh\nwww:x:120:130::/:/bin/false\nsvc:x:121:131::/:/bin/false\n",
        "root:x:0:\nwww:x:130:\nsvc:x:131:\n",
        ["the user 120, whose name was svc and is now www",
         "the group 130, whose name was svc and is now www"],
    ),
    "a second name for the number": (OLD + "www:x:120:130::/:/bin/false\n", GROUPS, []),
    "gone, and another has it": (
        "root:x:0:0::/:/bin/sh\nwww:x:120:130::/:/bin/false\n", GROUPS,
        ["the user 120, whose name was svc and is now www"],
    ),
    "gone": ("root:x:0:0::/:/bin/sh\n", GROUPS, []),
}  # fmt: skip


def accounts(root: Path, passwd: str, group: str) -> None:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text(passwd)
    (root / "etc/group").write_text(group)


def problems(boot: Boot) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((boot.run / "boot.json").read_text())["persist"][
        "problems"
    ]
    return found


@pytest.mark.parametrize("case", CASES)
def test_each_boot_compares_names_until_the_owner_is_repaired(tmp_path: Path, case: str) -> None:
    passwd, group, expected = CASES[case]
    boot = Boot(tmp_path, "tmpfs")
    declared = [parent("/srv"), directory("/srv/data")]
    try:
        (boot.store / "srv/data").mkdir(parents=True)
        os.chown(boot.store / "srv/data", 120, 130)
        accounts(boot.target, OLD, GROUPS)
        boot.persist(*declared)
        assert problems(boot) == []
        for number in range(2):
            boot.next_boot()
            accounts(boot.target, passwd, group)
            boot.persist(*declared)
            said = [one["problem"] for one in problems(boot)]
            if number and "gone" in case:
                continue  # its present owner looks like a new name
            assert [any(text in line for line in said) for text in expected] == [True] * len(
                expected
            ), said
            assert len(said) == len(expected)
        if expected and "gone" not in case:
            for one in problems(boot):
                command = one["hint"].replace("/srv/data", str(boot.root("/srv/data")))
                command = command.replace("svc", "121" if "user" in one["problem"] else "131")
                assert command.startswith("chown -hR --from=")
                subprocess.run(["sh", "-c", command], check=True)
            boot.next_boot()
            accounts(boot.target, passwd, group)
            boot.persist(*declared)
            assert problems(boot) == []
    finally:
        boot.unmount()


@pytest.mark.parametrize("case", CASES)
def test_compares_the_new_base_with_the_running_root(tmp_path: Path, case: str) -> None:
    passwd, group, expected = CASES[case]
    live, new = tmp_path / "live", tmp_path / "new"
    for root in (live, new):
        root.mkdir()
    accounts(live, OLD, GROUPS)
    accounts(new, passwd, group)
    (live / "srv/it's/deep").mkdir(parents=True)
    (live / "srv/other").mkdir()
    (live / "srv/it's/deep/file").write_text("")
    os.chown(live / "srv/it's/deep/file", 120, 130)
    fds = [os.open(root, os.O_PATH) for root in (live, new)]
    found = owners.look(fds[0], fds[1], ["/srv/it's", "/srv/other", "/srv/missing"])
    for fd in fds:
        os.close(fd)
    assert len(found) == len(expected)
    for text in expected:
        assert any(text in said and "/srv/it's" in said for said, _ in found)
    if "gone" not in case:
        assert all(hint.endswith(r"svc '/srv/it'\''s'") for _, hint in found)
