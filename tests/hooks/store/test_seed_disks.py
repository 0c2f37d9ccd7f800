"""Stores that really refuse names, lose their filesystem, or are on a full device.

`test_seed_errors` injects every error at every call; here the errors are those of an NTFS
(ntfs-3g(8)), which refuses names that Linux allows, of a directory without its key, of a FUSE
filesystem whose process has ended, and of a filesystem on a full device.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import encryption
import seeding_driver
from ephemeroot import cli
from loop_device import LoopDevice
from machine_tree import MachineTree

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("ntfs-3g"),
    pytest.mark.usefixtures("private_mounts"),
]

UID = 4242
NAMES = (b"a:b", b"x\\y", b"con", b"trailing.", b"what?", b"star*", b"\xff\xfe", b"new\nline")
"""Names that Windows refuses, and one that is not UTF-8."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name in ("store", "previous/home/mine/inner", "run", "target", "small"):
        (tmp_path / name).mkdir(parents=True)
    mine = tmp_path / "previous/home/mine"
    (mine / "file").write_text("years of work\n")
    (mine / "inner/deep").write_bytes(os.urandom(400_000))
    yield tmp_path
    for name in ("store", "small"):
        subprocess.run(["umount", "-l", tmp_path / name], capture_output=True, check=False)


@contextmanager
def ntfs(
    folder: Path, image: Path, options: str = "windows_names", name: str = "store"
) -> Iterator[subprocess.Popen[bytes]]:
    """An NTFS from *image*, mounted as *name* in *folder*, and the process that serves it."""
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkntfs", "-q", "-F", "-f", image], check=True, capture_output=True)
    words = ["ntfs-3g", "-o", f"no_detach,permissions,{options}", image, folder / name]
    server = subprocess.Popen(
        [*map(str, words)], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        while not (folder / name).is_mount():
            assert server.poll() is None
        yield server
    finally:
        subprocess.run(["umount", "-l", folder / name], capture_output=True, check=False)
        server.wait()


def hand_over(folder: Path, user: int, name: str = "mine") -> dict[str, Any]:
    if user:
        subprocess.run(["chown", "-R", f"{user}:{user}", folder / "previous/home"], check=True)
    return seeding_driver.hand_over(str(folder), name, "directory", user)


@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_names_the_entries_that_the_store_refuses_and_seeds_the_rest(
    folder: Path, user: int
) -> None:
    mine = os.fsencode(folder / "previous/home/mine")
    for name in NAMES:
        Path(os.fsdecode(mine + b"/" + name)).write_text("refused")
    os.mkdir(mine + b"/di:r")
    Path(os.fsdecode(mine + b"/di:r/inside")).write_text("refused")
    with ntfs(folder, folder / "image"):
        answer = hand_over(folder, user)
        assert answer["refused"] == ""
        assert answer["marked"]
        ((whole, left_out),) = answer["left-out"]
        assert not whole
        assert sorted(map(os.fsencode, left_out)) == sorted((*NAMES, b"di:r"))
        stored = folder / "store/home/mine"
        assert sorted(os.listdir(stored)) == ["file", "inner"]
        for entry in ("file", "inner/deep"):
            assert (stored / entry).read_bytes() == Path(os.fsdecode(mine), entry).read_bytes()


@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_a_path_whose_own_name_the_store_refuses_is_not_lost(folder: Path, user: int) -> None:
    """For a path of root, the root is kept; a user cannot prevent the wipe by choosing a name."""
    (folder / "previous/home/mine").rename(folder / "previous/home/mi:ne")
    with ntfs(folder, folder / "image"):
        answer = hand_over(folder, user, "mi:ne")
        assert bool(answer["refused"]) == (user == 0), answer
        assert answer["marked"] == (user != 0)
        assert not (folder / "store/home/mi:ne").exists()


@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_names_the_entries_too_long_for_the_store_and_seeds_the_rest(
    folder: Path, user: int
) -> None:
    """An NTFS allows names of 255 UTF-16 units, other filesystems names of 255 bytes."""
    names = ("\u2603" * 86, "\u2603" * 255)
    (folder / "old").mkdir()
    with ntfs(folder, folder / "image", "rw", "old"):
        mine = folder / "old/home/mine"
        (mine / names[1]).mkdir(parents=True)
        (mine / names[1] / "inside").write_text("refused")
        for name in (names[0], "file", "\u2603" * 85):
            (mine / name).write_text("years of work\n")
        subprocess.run(["chown", "-R", f"{user}:{user}", folder / "old/home"], check=True)
        subprocess.run(["mount", "--bind", folder / "old", folder / "previous"], check=True)
        answer: dict[str, Any] = seeding_driver.hand_over(str(folder), "mine", "directory", user)
        subprocess.run(["umount", folder / "previous"], check=True)
    assert answer["refused"] == ""
    assert answer["marked"]
    assert [(whole, sorted(left)) for whole, left in answer["left-out"]] == [(False, sorted(names))]
    assert sorted(os.listdir(folder / "store/home/mine")) == ["file", "\u2603" * 85]


@pytest.mark.parametrize("inner", [False, True], ids=["whole", "part"])
@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_a_directory_without_its_key_accepts_no_name(folder: Path, user: int, inner: bool) -> None:
    """An encrypted directory of the store (fscrypt) that is locked hides its real names.

    For a path of root, the root is kept; a user cannot prevent the wipe by locking a directory.
    """
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "encrypt", image], check=True)
    with LoopDevice(image) as device:
        subprocess.run(["mount", device.path, folder / "store"], check=True)
        place = folder / ("store/home/mine" if inner else "store/home")
        place.parent.mkdir(exist_ok=True)
        key = encryption.encrypt(folder / "store", place)
        os.chown(place, user, user)
        (place / ("file" if inner else "mine")).write_text("of an earlier time\n")
        encryption.lock(folder / "store", key)
        before = os.listdir(place)
        assert before not in (["mine"], ["file"])
        answer = hand_over(folder, user)
        assert os.listdir(place) == before
        subprocess.run(["umount", folder / "store"], check=True)
    if inner:  # the store has the path
        assert (answer["refused"], answer["marked"], answer["left-out"]) == ("", False, [])
        return
    reason = os.strerror(errno.ENOKEY)
    assert bool(answer["refused"]) == (user == 0), answer
    assert answer["marked"] == (user != 0)
    said = [answer["refused"], *answer["problems"]]
    assert any("/home/mine" in line and reason in line for line in said), said


@pytest.mark.requires_program("setfacl")
@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_an_acl_too_large_for_the_store_is_reported_and_the_path_is_seeded(
    folder: Path, user: int
) -> None:
    """An ext4 has one block for all attributes of a directory, other filesystems have more, and
    says that it has no space (ENOSPC). The ACL is of the directory above the declared one.
    """
    entries = ",".join(f"u:{number}:r" for number in range(5000, 5400))
    subprocess.run(["setfacl", "-m", entries, folder / "previous/home"], check=True)
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-I", "128", image], check=True)
    with LoopDevice(image) as device:
        subprocess.run(["mount", device.path, folder / "store"], check=True)
        answer = hand_over(folder, user)
        for entry in ("file", "inner/deep"):
            stored = folder / "store/home/mine" / entry
            assert stored.read_bytes() == (folder / "previous/home/mine" / entry).read_bytes()
        subprocess.run(["umount", folder / "store"], check=True)
    assert (answer["refused"], answer["left-out"]) == ("", [])
    (said,) = answer["problems"]
    assert "/home" in said, said
    assert "system.posix_acl_access does not fit" in said, said


def test_adopt_names_the_entries_that_the_store_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "persistent").mkdir()
    machine = MachineTree(folder)
    for name in ("file", "a:b", "inner/con"):
        machine.write(f"srv/app/{name}", "years of work\n")
    (folder / "persistent/.ephemeroot-store").unlink()
    with ntfs(folder, folder / "image", name="persistent"):
        machine.mark("persistent")
        assert cli.main(["adopt", "--root", str(folder), "/srv/app"]) == 10
        said = capsys.readouterr().err
        for name in ("a:b", "inner/con"):
            assert f"/srv/app/{name} is not in the store" in said
        stored = folder / "persistent/srv/app"
        assert sorted(p.name for p in stored.rglob("*")) == ["file", "inner"]


@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_the_root_is_kept_when_the_stores_filesystem_disappears(folder: Path, user: int) -> None:
    with ntfs(folder, folder / "image") as server:
        server.send_signal(signal.SIGKILL)
        server.wait()
        answer = hand_over(folder, user)
    assert "cannot be copied to the store" in answer["refused"]
    assert answer["left-out"] == []


@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
@pytest.mark.parametrize("kind", ["ext4", "ntfs"])
def test_the_root_is_kept_when_the_stores_device_is_full(
    folder: Path, kind: str, user: int
) -> None:
    """The filesystem has room, but its device does not: a thin volume whose pool is full."""
    small = folder / "small"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True)
    image = small / "image"

    def fill() -> None:
        with (small / "fill").open("wb", 0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    if kind == "ntfs":
        with ntfs(folder, image):
            fill()
            answer = hand_over(folder, user)
    else:
        with image.open("wb") as file:
            file.truncate(400 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
        device = LoopDevice(image)
        try:
            subprocess.run(["mount", device.path, folder / "store"], check=True)
            fill()
            answer = hand_over(folder, user)
            subprocess.run(["umount", folder / "store"], check=False, capture_output=True)
        finally:
            device.close()
    assert answer["refused"], answer
    assert answer["left-out"] == []
