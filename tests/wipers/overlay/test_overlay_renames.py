"""Which renames fail on an overlay root: the table of docs/roots.md, on a real one."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.overlays import Overlay
from layered_machine import STORE, LayeredMachine, layered_machine
from overlay_machine import InstalledRoot

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayeredMachine]:
    """A machine that declares /srv/data, /opt/over with an overlay, and a bound file."""
    with layered_machine(tmp_path_factory.mktemp("renames")) as made:
        with InstalledRoot(made.disks) as top:
            for name in ("usr/of-the-base/deep", "usr/changed", "usr/again", "srv/data/inside",
                         "opt/over/of-the-base"):  # fmt: skip
                (top / name).mkdir(parents=True)
            (top / "usr/file").write_text("x")
            (top / "usr/link").symlink_to("file")
            os.mknod(top / "usr/fifo", stat.S_IFIFO)
            (top / "etc/bound").write_text("x")
        made.persist = [
            *(Parent(path=f"/{name}", store=STORE, source=name) for name in ("etc", "srv", "opt")),
            Directory(path="/srv/data", store=STORE, source="srv/data"),
            Overlay(path="/opt/over", store=STORE, source="opt/over"),
            File(path="/etc/bound", store=STORE, source="etc/bound", method="bind"),
        ]
        assert made.boot() == [0, 0]
        yield made


def changed(root: Path) -> Path:
    (root / "usr/changed/new").write_text("x")
    return root / "usr/changed"


def made(root: Path) -> Path:
    (root / "usr/made").mkdir()
    return root / "usr/made"


def again(root: Path) -> Path:
    shutil.rmtree(root / "usr/again")
    (root / "usr/again").mkdir()
    return root / "usr/again"


def stored(root: Path) -> Path:
    (root / "srv/data/stored").mkdir()
    return root / "srv/data/stored"


def at(name: str) -> Callable[[Path], Path]:
    return lambda root: root / name


CASES: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "directory of the base": (at("usr/of-the-base"), "usr/renamed", errno.EXDEV),
    "directory that was changed": (changed, "usr/changed-2", errno.EXDEV),
    "directory of this boot": (made, "usr/made-2", 0),
    "directory removed and made again": (again, "usr/again-2", 0),
    "directory in a declared one": (stored, "srv/data/stored-2", 0),
    "base's directory in a declared one": (at("srv/data/inside"), "srv/data/inside-2", 0),
    "base's directory in an overlay": (at("opt/over/of-the-base"), "opt/over/x", errno.EXDEV),
    "declared directory": (at("srv/data"), "srv/data-2", errno.EBUSY),
    "declared file": (at("etc/bound"), "etc/bound-2", errno.EBUSY),
    "out of a declared directory": (stored, "srv/out", errno.EXDEV),
    "into a declared directory": (made, "srv/data/in", errno.EXDEV),
    "file": (at("usr/file"), "usr/file-2", 0),
    "link": (at("usr/link"), "usr/link-2", 0),
    "pipe": (at("usr/fifo"), "usr/fifo-2", 0),
}


@pytest.mark.parametrize("name", CASES)
def test_renames_on_an_overlay_root_agree_with_the_table(
    machine: LayeredMachine, name: str
) -> None:
    make, target, expected = CASES[name]
    source = make(machine.root)
    found = 0
    try:
        source.rename(machine.root / target)
    except OSError as error:
        found = error.errno or -1
        if source.is_dir() and not os.path.ismount(source):
            shutil.rmtree(source, ignore_errors=True)
    assert found == expected, os.strerror(found)
