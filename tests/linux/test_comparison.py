"""Comparing two trees: they are equal only if nothing in them differs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds
from ephemeroot.linux.comparison import same_tree

pytestmark = pytest.mark.requires_root


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of one tree."""
    one = tmp_path / "one"
    (one / "a/b/c").mkdir(parents=True)
    (one / "a/b/c/file").write_text("text")
    (one / "a/empty").mkdir()
    (one / "a/link").symlink_to("b")
    subprocess.run(["cp", "--archive", one, tmp_path / "other"], check=True)
    return one, tmp_path / "other"


def compared(one: Path, other: Path, meter: Meter | None = None) -> bool:
    fd = os.open(one.parent, os.O_RDONLY)
    try:
        return same_tree(fd, one.name, fd, other.name, meter or Meter(Bounds()))
    finally:
        os.close(fd)


def test_copies_are_equal(pair: tuple[Path, Path]) -> None:
    assert compared(*pair)


def link_elsewhere(top: Path) -> None:
    (top / "a/link").unlink()
    (top / "a/link").symlink_to("c")


def link_to_directory(top: Path) -> None:
    (top / "a/link").unlink()
    (top / "a/link").mkdir()


def directory_to_file(top: Path) -> None:
    (top / "a/empty").rmdir()
    (top / "a/empty").write_text("")


def one_more_directory(top: Path) -> None:
    (top / "a/empty/new").mkdir()


def one_directory_less(top: Path) -> None:
    (top / "a/empty").rmdir()


def one_file_less(top: Path) -> None:
    (top / "a/b/c/file").unlink()


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda top: (top / "a/b/c/file").write_text("tent"),
    "size": lambda top: (top / "a/b/c/file").write_text("texts"),
    "mode of a file": lambda top: os.chmod(top / "a/b/c/file", 0o600),
    "owner of a file": lambda top: os.chown(top / "a/b/c/file", 7, 0),
    "attribute of a file": lambda top: os.setxattr(top / "a/b/c/file", "user.x", b"y"),
    "mode of a directory": lambda top: os.chmod(top / "a/b", 0o700),
    "owner of a directory": lambda top: os.chown(top / "a/empty", 0, 7),
    "mode of the top": lambda top: os.chmod(top, 0o711),
    "one more file": lambda top: (top / "a/b/new").write_text(""),
    "a name": lambda top: (top / "a/empty").rename(top / "a/Empty"),
    "one more directory": one_more_directory,
    "one directory less": one_directory_less,
    "one file less": one_file_less,
    "where a link leads": link_elsewhere,
    "a directory instead of a link": link_to_directory,
    "a file instead of a directory": directory_to_file,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", [0, 1])
def test_finds_a_single_difference(pair: tuple[Path, Path], change: str, which: int) -> None:
    CHANGES[change](pair[which])
    assert not compared(*pair)


def test_the_work_is_limited(pair: tuple[Path, Path]) -> None:
    with pytest.raises(OutOfBounds):
        compared(*pair, Meter(Bounds(entries=3)))
    with pytest.raises(OutOfBounds):
        compared(*pair, Meter(Bounds(depth=2)))


def test_depth_needs_neither_descriptors_nor_recursion(deep_trees: Path) -> None:
    tmp_path = deep_trees
    for top in ("one", "other"):
        fd = os.open(tmp_path, os.O_RDONLY)
        for name in (top, *["d"] * 3000):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
    assert compared(tmp_path / "one", tmp_path / "other")
