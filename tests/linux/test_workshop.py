"""A workshop is a directory from which entries can be renamed to their destination, and which no
user can enter.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import encryption
from btrfs_image import btrfsutil
from ephemeroot.linux import paths, workshop
from ephemeroot.linux.workshop import Workshop

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("mkfs.xfs"),
    pytest.mark.usefixtures("private_mounts"),
]

EVE = 4242


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[Path]:
    image, point = folder / "image", folder / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([*words, image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    point.chmod(0o755)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-R", point], check=True)


def of_a_subvolume(top: Path, place: Path) -> None:
    btrfsutil.create_subvolume(str(place))


def of_a_project(top: Path, place: Path) -> None:
    place.mkdir()
    subprocess.run(["chattr", "-p", "7", place], check=True)
    subprocess.run(["chattr", "+P", place], check=True)


def of_an_encryption(top: Path, place: Path) -> None:
    encryption.encrypt(top, place)


def of_a_mount(top: Path, place: Path) -> None:
    place.mkdir()
    subprocess.run(["mount", "--bind", place, place], check=True)


def of_its_own(top: Path, place: Path) -> None:
    place.mkdir()


@pytest.mark.parametrize(
    ("make", "words", "apart"),
    [
        (of_its_own, ("mkfs.btrfs", "-q"), False),
        (of_a_subvolume, ("mkfs.btrfs", "-q"), True),
        (of_a_mount, ("mkfs.btrfs", "-q"), True),
        (of_a_project, ("mkfs.xfs", "-q"), True),
        (of_an_encryption, ("mkfs.ext4", "-q", "-F", "-O", "encrypt"), True),
    ],
)
def test_a_new_entry_can_be_renamed_to_any_destination(
    tmp_path: Path,
    make: Callable[[Path, Path], None],
    words: tuple[str, ...],
    apart: bool,
) -> None:
    with mounted(tmp_path, *words) as top:
        (top / "records").mkdir(mode=0o700)
        make(top, top / "place")
        os.chown(top / "place", EVE, EVE)
        records = os.open(top / "records", os.O_RDONLY)
        place = os.open(top / "place", os.O_RDONLY)
        try:
            os.mknod("probe", dir_fd=records)
            assert _is_refused(records, place) is apart, "the case is not what it says"
            with Workshop(place, records) as made:
                name = made.name
                assert (top / "place" / name).exists() is apart
                assert (top / "records" / name).exists() is not apart
                os.mkdir("directory", dir_fd=made.fd)
                os.mknod("file", dir_fd=made.fd)
                for one in ("directory", "file"):
                    made.deliver(one, one)
            found = set(paths.names(place)) - {"probe"}
            assert found == {"directory", "file"}
        finally:
            os.close(records)
            os.close(place)


def _is_refused(records: int, place: int) -> bool:
    """Whether renaming from one to the other is refused."""
    try:
        paths.rename(records, "probe", place, "probe", flags=paths.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return True
    return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "place").mkdir()
    os.chown(tmp_path / "place", EVE, EVE)
    fd = os.open(tmp_path / "place", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_does_not_inherit_attributes_of_the_destination(place: int, tmp_path: Path) -> None:
    subprocess.run(["setfacl", "-d", "-m", f"u:{EVE}:rwx", tmp_path / "place"], check=True)
    os.chmod(tmp_path / "place", 0o2777)
    with Workshop(place) as made:
        os.mkdir("inner", dir_fd=made.fd)
        for fd, name in ((made.fd, "."), (made.fd, "inner")):
            opened = os.open(name, os.O_RDONLY, dir_fd=fd)
            status = os.fstat(opened)
            assert (status.st_uid, status.st_gid, status.st_mode & 0o7777 & ~0o055) == (0, 0, 0o700)
            assert [n for n in os.listxattr(opened) if "acl" in n] == []
            os.close(opened)
        command = ["setpriv", f"--reuid={EVE}", f"--regid={EVE}", "--clear-groups"]
        path = tmp_path / "place" / made.name
        tmp_path.chmod(0o755)
        for words in (["ls", path], ["touch", path / "x"], ["ls", path / "work"]):
            done = subprocess.run([*command, *map(str, words)], capture_output=True)
            assert done.returncode != 0


def test_undoes_the_replacement_of_an_unexpected_entry(place: int) -> None:
    for name in ("mine", "other"):
        os.mkdir(name, dir_fd=place)
    expected = os.stat("mine", dir_fd=place)
    paths.rename(place, "mine", place, "other", flags=paths.RENAME_EXCHANGE)
    other = os.stat("mine", dir_fd=place)
    with Workshop(place) as made:
        os.mkdir("new", dir_fd=made.fd)
        assert not made.replace("new", "mine", expected)
        assert os.path.samestat(os.stat("mine", dir_fd=place), other)
        assert made.take("mine", expected) == ""
        assert os.path.samestat(os.stat("mine", dir_fd=place), other)
        assert made.replace("new", "mine", other)
        assert os.path.samestat(os.stat("new", dir_fd=made.fd), other)
        made.clear()
        assert paths.names(made.fd) == []
    assert sorted(paths.names(place)) == ["mine", "other"]


def test_does_not_remove_workshops_in_use_or_directories_of_that_name(place: int) -> None:
    os.makedirs(f"/proc/self/fd/{place}/{workshop.PREFIX}roots/work/precious")
    pid = os.fork()
    if pid == 0:
        os.mkdir("half", dir_fd=Workshop(place).fd)
        os._exit(0)
    os.waitpid(pid, 0)
    with Workshop(place) as used:
        assert len(paths.names(place)) == 3
        workshop.sweep(place)
        assert sorted(paths.names(place)) == sorted([used.name, f"{workshop.PREFIX}roots"])
    assert paths.names(place) == [f"{workshop.PREFIX}roots"]
