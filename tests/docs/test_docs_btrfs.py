"""The statements of docs/btrfs.md are true."""

from __future__ import annotations

import re
from pathlib import Path

from checkout import CHECKOUT
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.wipers import names
from ephemeroot.wipers.btrfs import Btrfs
from machine_tree import STORE, VOLUME, MachineTree

PAGE = CHECKOUT / "docs/btrfs.md"


def test_its_configuration_is_valid(tmp_path: Path) -> None:
    root, home = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    tree = MachineTree(tmp_path, root + VOLUME + home + STORE)
    # The machine's user has no declared path in the wiped home, which is only a warning.
    assert [problem for problem in tree.problems() if not problem.warning] == []
    assert [o.target for o in tree.plan().wipe if isinstance(o, Wipe)] == ["/", "/home"]


def test_it_names_every_option() -> None:
    text = PAGE.read_text()
    assert [option.name for option in Btrfs.OPTIONS if f"{option.name} = " not in text] == []


def test_its_names_of_old_roots_are_valid() -> None:
    rows = r"^\| `(…?[^ `]+)` \| (?!keeps|makes)"
    stamp, *flags = re.findall(rows, PAGE.read_text(), re.MULTILINE)
    assert len(flags) == 4
    for flag in flags:
        assert names.parse(stamp + flag.removeprefix("…")) is not None
