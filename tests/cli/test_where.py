"""``ephemeroot where``: each kind of path, by its own name, by a parent and through links."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import proof
from ephemeroot.cli import main
from machine_tree import DEVICE, FSTAB, MAIN, SOUND, MachineTree

CONFIGURATION = SOUND.replace(
    'directories = ["/var/log"]',
    'directories = ["/var/log", "/srv/data", { directory = "/srv/data/inner", method = "bind" }]',
).replace('files = ["/etc/machine-id"]', 'files = ["/etc/machine-id", "/etc/app.conf"]')

# A path, the answer, whether the path persists, and its place in the store.
CASES = {
    "/var/log": ("declared", True, "/persistent/var/log"),
    "/var/log/deep/er/file": ("declared", True, "/persistent/var/log/deep/er/file"),
    "/srv/data/inner/x": ("declared", True, "/persistent/srv/data/inner/x"),
    "/srv/database": ("root", False, None),
    "/etc/app.conf": ("declared", True, "/persistent/etc/app.conf"),
    "/etc/app.conf.d": ("root", False, None),
    "/etc": ("root", False, None),
    "/etc/ephemeroot/conf.d/x": ("declared", True, "/persistent/etc/ephemeroot/conf.d/x"),
    "/persistent": ("store", True, None),
    "/persistent/var/log/x": ("store", True, None),
    "/boot/vmlinuz": ("volume", True, None),
    "/proc/self": ("kernel", False, None),
    "/run/lock": ("kernel", False, None),
    "/": ("root", False, None),
}
WAYS = ("{}", "{}/", "/nothing/..{}", "{}/./", "/by-link{}")


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    made = MachineTree(tmp_path, CONFIGURATION)
    made.write("etc/fstab", FSTAB + "UUID=1111-2222 /boot vfat defaults 0 2\n")
    for name in ("var/log/deep", "srv/data/inner", "srv/database", "boot"):
        (made.path / name).mkdir(parents=True)
    (made.path / "by-link").symlink_to("/")
    made.write("etc/app.conf", "x")
    apply(made)
    return made


def apply(tree: MachineTree) -> None:
    tree.write("etc/ephemeroot/plan.json", tree.plan().dump().decode())


def where(tree: MachineTree, path: str, capsys: pytest.CaptureFixture[str]) -> tuple[Any, int]:
    capsys.readouterr()
    code = main(["where", path, "--root", str(tree.path), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert (content["format"], content["version"]) == ("ephemeroot-where", 1)
    assert code == (0 if content["persists"] else 10)
    return content, code


@pytest.mark.parametrize(
    ("way", "path"), proof.sample([(way, path) for way in WAYS for path in CASES], 30)
)
def test_answers_for_each_kind_of_path(
    tree: MachineTree, way: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reason, persists, stored = CASES[path]
    content, _ = where(tree, way.format(path), capsys)
    assert (content["reason"], content["persists"]) == (reason, persists)
    assert content.get("stored-as") == stored
    if reason == "declared" and "/etc/ephemeroot" not in path:
        assert content["place"].startswith(f"{tree.show()}:")


def test_tells_declared_from_applied_paths(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write(MAIN, CONFIGURATION.replace('"/srv/data",', '"/opt/new",'))
    content, _ = where(tree, "/opt/new/x", capsys)
    assert (content["reason"], content["persists"]) == ("not-applied", False)
    assert content["hint"] == "run 'ephemeroot apply'"
    content, _ = where(tree, "/srv/data/x", capsys)
    assert (content["reason"], content["persists"]) == ("not-applied", True)
    apply(tree)
    assert where(tree, "/opt/new/x", capsys)[0]["reason"] == "declared"
    assert where(tree, "/srv/data/x", capsys)[0]["reason"] == "root"


def test_where_on_a_machine_that_wipes_nothing(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.path / "etc/ephemeroot/plan.json").unlink()
    assert where(tree, "/srv/database", capsys)[0]["reason"] == "not-wiped"
    for path, (_, _, stored) in CASES.items():
        if stored is None:
            continue
        content, _ = where(tree, path, capsys)
        assert (content["reason"], content["persists"]) == ("not-applied", True)
        assert "persists: / is not made fresh at boot" in content["verdict"]
        assert content["hint"] == "run 'ephemeroot apply'"
        assert content["stored-as"] == stored


def test_where_prints_text_for_people(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["where", "/by-link/etc/app.conf", "--root", str(tree.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "/by-link/etc/app.conf persists"
    assert "  leads to   /etc/app.conf" in lines
    assert any(line.startswith("  declared   ") and "files" in line for line in lines)
    assert "  stored as  /persistent/etc/app.conf" in lines
    tree.write("srv/a b", "x")
    assert main(["where", "/srv/a b", "--root", str(tree.path)]) == 10
    assert "hint: run 'ephemeroot adopt '/srv/a b'' to keep it" in capsys.readouterr().out
    assert main(["where", "", "--root", str(tree.path)]) == 2
    assert main(["where", "/x\0", "--root", str(tree.path)]) == 2
    assert DEVICE
    assert os.path.isabs(tree.show())
