"""Immutable and append-only files (chattr(1)): each wipe, pruning or removal that they stop names
them and the command to run.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import DAY, NOON, Disk, Site, btrfsutil, fresh_disk
from ephemeroot.errors import EphemerootError
from ephemeroot.linux import inode_flags, removal

pytestmark = pytest.mark.requires_loop
FLAGS = ("i", "a", "ia")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("immutable")) as found:
        yield found
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", found.top], check=False)


@pytest.fixture
def site(disk: Disk) -> Site:
    return disk.site().with_root().with_base()


def lock(flags: str, *paths: Path) -> None:
    for path in paths:
        subprocess.run(["chattr", *(f"+{flag}" for flag in flags), path], check=True)


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return bool(inode_flags.described(fd))
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("what", ["root", "base", "root-read-only", "files"])
def test_rotates_and_prunes_a_root_with_immutable_files(site: Site, what: str, flags: str) -> None:
    base = site.path / "base"
    if what == "files":
        for top in (site.root, base):
            (top / "etc").mkdir()
            (top / "etc/file").write_text("x")
            lock(flags, top / "etc/file", top / "etc")
    else:
        lock(flags, site.root if what.startswith("root") else base)
    if what == "root-read-only":
        btrfsutil.set_subvolume_read_only(str(site.root), True)
    first = site.rotate()
    assert first.problems == []
    assert (site.root / "origin").read_text() == "base"
    assert not is_locked(site.root)
    if what == "files":  # they belong to the root, and are unchanged
        assert is_locked(site.root / "etc/file")
    site.live()
    site.settings |= {"keep-days": 1, "keep-last": 0}
    second = site.rotate(NOON + DAY)
    site.live()
    third = site.rotate(NOON + 30 * DAY, synchronised=True)
    assert second.problems + third.problems == []
    assert site.strays() == []


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("read_only", [False, True])
def test_deletes_an_old_root_with_its_nested_subvolumes(
    site: Site, flags: str, read_only: bool
) -> None:
    site.retire("2020-01-01T00-00-00Z", "2020-01-02T00-00-00Z")
    old = site.old_roots / "2020-01-01T00-00-00Z"
    (old / "var/lib").mkdir(parents=True)
    btrfsutil.create_subvolume(str(old / "var/lib/inner"))
    (old / "var/lib/inner/file").touch()
    lock(flags, old / "var/lib/inner/file", old / "var/lib/inner", old / "var/lib", old)
    if read_only:
        btrfsutil.set_subvolume_read_only(str(old), True)
    with site.history() as history:
        history.delete(history.find(old.name))
    assert site.old() == ["2020-01-02T00-00-00Z"]


@pytest.mark.parametrize("flags", FLAGS)
def test_keeps_an_old_root_with_immutable_files(site: Site, flags: str) -> None:
    site.retire("2020-01-01T00-00-00Z")
    lock(flags, site.old_roots / "2020-01-01T00-00-00Z")
    with site.history() as history:
        entry = history.find("2020-01-01T00-00-00Z")
        assert entry.name is not None
        history.rename(entry, entry.name.changed(keep=True))
    assert site.old() == ["2020-01-01T00-00-00Z.keep"]


def test_names_an_immutable_directory_that_stays(site: Site) -> None:
    site.old_roots.mkdir()
    lock("i", site.path)
    before = sorted(os.listdir(site.path))
    try:
        with pytest.raises(OSError, match="the directory is immutable") as caught:
            site.rotate()
    finally:
        subprocess.run(["chattr", "-i", site.path], check=True)
    assert caught.value.filename.endswith(site.name)
    assert sorted(os.listdir(site.path)) == before


@pytest.mark.parametrize("flag", ["i", "a"])
def test_names_an_immutable_directory_of_old_roots(site: Site, flag: str) -> None:
    site.retire("2020-01-01T00-00-00Z")
    lock(flag, site.old_roots)
    try:
        with site.history() as history:
            entry = history.find("2020-01-01T00-00-00Z")
            immutable = r"the directory is (immutable|append-only)"
            with pytest.raises(OSError, match=immutable) as caught:
                history.delete(entry)
    finally:
        subprocess.run(["chattr", f"-{flag}", site.old_roots], check=True)
    assert caught.value.filename.endswith("old_roots")
    assert site.old() == ["2020-01-01T00-00-00Z"]


def test_repairs_a_nested_subvolume_in_an_immutable_directory(site: Site) -> None:
    base = site.path / "base"
    (base / "var").mkdir()
    btrfsutil.create_subvolume(str(base / "var/lib"))
    lock("i", base / "var")
    assert site.rotate().problems == []
    assert is_locked(site.root / "var")
    (site.root / "var/lib/new").touch()


@pytest.mark.requires_program("mkswap")
def test_reports_a_swap_file_in_use_in_the_base(site: Site) -> None:
    swap = site.path / "base/data"
    make = 'truncate -s 0 "$1"; chattr +C "$1"; fallocate -l 16M "$1"; chmod 600 "$1"; '
    subprocess.run(["sh", "-ec", make + 'mkswap -q "$1"; swapon "$1"', "sh", swap], check=True)
    try:
        with pytest.raises(EphemerootError, match="a swap file in it is in use") as caught:
            site.rotate()
    finally:
        subprocess.run(["swapoff", swap], check=True)
    assert "swapoff" in caught.value.hint
    assert site.strays() == []
    assert (site.root / "file").read_text() == "hello"


@pytest.mark.parametrize("flags", FLAGS)
def test_removes_a_tree_without_unlocking_its_parent(disk: Disk, flags: str) -> None:
    top = disk.top / f"tree{next(disk.sites)}"
    places = [top / "a", top / "a/b", top / "a/b/c", top / "a/empty"]
    for place in places:
        place.mkdir(parents=True)
        (place / "file").write_text("x")
    (top / "a/empty/file").unlink()
    (top / "a/link").symlink_to("b")
    lock(flags, *(place / "file" for place in places[:3]), *reversed(places))
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert removal.remove(fd, "a", unlock=True)
        assert os.listdir(top) == []
        (top / "next").mkdir()
        lock("i", top)
        with pytest.raises(PermissionError):
            removal.remove(fd, "next", unlock=True)
        assert is_locked(top)
    finally:
        os.close(fd)
