"""Copying and removing trees as users make them: deep, full of links, changing, with
mounts inside.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.linux import copying, removal
from ephemeroot.linux.walk import Walk

pytestmark = pytest.mark.requires_loop

DEEP = 3000


@pytest.fixture(params=["tmpfs", "btrfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A separate filesystem, and as few file descriptors as a process may have on any system."""
    command: list[str | Path]
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "mode=0755", "none", tmp_path]
    else:
        image = tmp_path.parent / f"{tmp_path.name}.image"
        with image.open("wb") as file:
            file.truncate(120 << 20)
        subprocess.run(["mkfs.btrfs", "-q", image], check=True)
        command = ["mount", "-o", "loop", image, tmp_path]
    subprocess.run(command, check=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(4096) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[32], limits[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    subprocess.run(["umount", "-R", tmp_path], check=True)
    (tmp_path.parent / f"{tmp_path.name}.image").unlink(missing_ok=True)


@pytest.fixture
def fd(place: Path) -> Iterator[int]:
    opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def dig(parent: int, name: str, depth: int) -> None:
    """A chain of nested directories with a file at the bottom."""
    here = os.dup(parent)
    for part in [name, *["d"] * depth]:
        os.mkdir(part, dir_fd=here)
        deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def depth_of(parent: int, name: str) -> int:
    here = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
    depth = 0
    while "d" in os.listdir(here):
        deeper = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
        depth += 1
    assert os.listdir(here) == ["bottom"]
    os.close(here)
    return depth


def test_copies_trees_deeper_than_recursion_and_path_limits(fd: int) -> None:
    dig(fd, "deep", DEEP)
    copier = copying.Copier()
    copier.copy(fd, "deep", fd, "copy")
    assert depth_of(fd, "copy") == DEEP
    assert copier.entries == DEEP + 2
    for name in ("deep", "copy"):
        assert removal.remove(fd, name)
    assert os.listdir(fd) == []


def test_copies_more_hard_links_than_descriptors(fd: int, place: Path) -> None:
    for name in ("one", "two"):
        (place / "tree" / name).mkdir(parents=True)
    for number in range(200):
        (place / f"tree/one/{number}").write_text(str(number))
        os.link(place / f"tree/one/{number}", place / f"tree/two/{number}")
    copying.Copier().copy(fd, "tree", fd, "copy")
    for number in range(200):
        one, two = place / f"copy/one/{number}", place / f"copy/two/{number}"
        assert one.read_text() == str(number)
        assert os.path.samefile(one, two)
        assert not os.path.samefile(one, place / f"tree/one/{number}")


def test_hard_links_too_deep_to_reach_become_copies(fd: int, place: Path) -> None:
    dig(fd, "deep", DEEP)
    here = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    for _ in range(DEEP):
        deeper = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.link("bottom", "again", src_dir_fd=here, dst_dir_fd=here)
    os.close(here)
    copying.Copier().copy(fd, "deep", fd, "copy")
    assert removal.remove(fd, "copy")


def test_copies_attributes_of_entries_that_cannot_be_opened(fd: int, place: Path) -> None:
    """For example the SELinux label of a link; the test uses another attribute of the same
    namespace.
    """
    (place / "tree").mkdir()
    (place / "tree/link").symlink_to("nowhere")
    os.mkfifo(place / "tree/fifo")
    for name in ("link", "fifo"):
        path = place / "tree" / name
        os.chown(path, 12, 34, follow_symlinks=False)
        os.setxattr(path, "trusted.label", name.encode(), follow_symlinks=False)
    copying.Copier().copy(fd, "tree", fd, "copy")
    for name in ("link", "fifo"):
        path = place / "copy" / name
        assert os.getxattr(path, "trusted.label", follow_symlinks=False) == name.encode()
        assert (path.lstat().st_uid, path.lstat().st_gid) == (12, 34)
        assert path.lstat().st_mode == (place / "tree" / name).lstat().st_mode
    assert os.readlink(place / "copy/link") == "nowhere"


def test_ignores_mounts_inside_a_tree(fd: int, place: Path) -> None:
    """A mount is not part of the tree: it is neither copied nor removed."""
    for name in ("tree/volume", "elsewhere"):
        (place / name).mkdir(parents=True)
    (place / "elsewhere/precious").write_text("x")
    (place / "tree/file").write_text("below")
    (place / "elsewhere").chmod(0o751)
    subprocess.run(["mount", "--bind", place / "elsewhere", place / "tree/volume"], check=True)
    subprocess.run(
        ["mount", "--bind", place / "elsewhere/precious", place / "tree/file"], check=True
    )
    copying.Copier().copy(fd, "tree", fd, "copy")
    assert os.listdir(place / "copy") == ["volume"]
    assert os.listdir(place / "copy/volume") == []
    assert (place / "copy/volume").stat().st_mode & 0o7777 == 0o751
    with pytest.raises(OSError, match="Device or resource busy"):
        removal.remove(fd, "tree")
    subprocess.run(["umount", place / "tree/file"], check=True)
    with pytest.raises(OSError, match="Invalid cross-device link"):
        removal.remove(fd, "tree")
    assert (place / "elsewhere/precious").exists()
    subprocess.run(["umount", place / "tree/volume"], check=True)
    assert removal.remove(fd, "tree")
    assert (place / "elsewhere/precious").exists()


def test_detects_a_directory_that_is_moved_during_the_walk(fd: int, place: Path) -> None:
    """Its parent is now another directory, in which nothing may change."""
    (place / "tree/inner").mkdir(parents=True)
    (place / "victim").mkdir()
    walk = Walk(fd, "tree")
    walk.enter("inner")
    (place / "tree/inner").rename(place / "victim/inner")
    with pytest.raises(OSError, match="moved by another process") as raised:
        walk.leave()
    assert raised.value.errno == errno.EBUSY
    walk.close()


def test_stops_at_the_deadline(fd: int, place: Path) -> None:
    (place / "tree/inner").mkdir(parents=True)
    for number in range(1000):
        (place / f"tree/inner/{number}").touch()
    assert not removal.remove(fd, "tree", time.monotonic())
    assert len(os.listdir(place / "tree/inner")) == 1000
    assert removal.remove(fd, "tree", time.monotonic() + 60)
    assert removal.remove(fd, "tree", time.monotonic())
    assert not (place / "tree").exists()
