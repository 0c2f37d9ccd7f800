"""Making one tree equal to another: equal files are not changed, and a user who exchanges files
during the walk can cause no read or write outside the two trees.
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

import proof
from ephemeroot.linux.workshop import Workshop
from ephemeroot.mirror.tree import Mirror, settle

pytestmark = pytest.mark.requires_loop

EVE = 4242


class Trees:
    def __init__(self, base: Path) -> None:
        self.source = base / "source"
        self.target = base / "target"
        self.source.mkdir()
        self.target.mkdir()

    def run(self, **options: object) -> Mirror:
        mirror = Mirror(**options)  # type: ignore[arg-type]
        flags = os.O_RDONLY | os.O_DIRECTORY
        source, target = os.open(self.source, flags), os.open(self.target, flags)
        try:
            mirror.tree(source, target)
        finally:
            os.close(source)
            os.close(target)
        return mirror


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


def shape(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        what: object = os.readlink(path) if path.is_symlink() else None
        if path.is_file() and not path.is_symlink():
            what = path.read_bytes()
        found[str(path.relative_to(top))] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


def fill(top: Path) -> None:
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_text("content")
    (top / "a/link").symlink_to("/etc/passwd")
    (top / "a/fifo").touch()
    (top / "a/fifo").unlink()
    os.mkfifo(top / "a/fifo", 0o640)
    os.chown(top / "a/b/file", 12, 34)
    (top / "a/b").chmod(0o2750)


def test_a_second_run_changes_nothing_in_equal_trees(trees: Trees) -> None:
    fill(trees.source)
    (trees.target / "stray/deep").mkdir(parents=True)
    (trees.target / "a").write_text("a file where a directory is")
    first = trees.run()
    assert shape(trees.target) == shape(trees.source)
    assert first.removed
    before = {p: p.lstat().st_ctime_ns for p in trees.target.rglob("*")}
    second = trees.run(content=True)
    assert (second.changed, second.removed) == ([], [])
    assert {p: p.lstat().st_ctime_ns for p in trees.target.rglob("*")} == before


@pytest.mark.parametrize("change", ["content", "mode", "owner", "link", "kind", "attribute"])
def test_finds_every_difference(trees: Trees, change: str) -> None:
    fill(trees.source)
    trees.run()
    file = trees.source / "a/b/file"
    if change == "content":
        file.write_text("CONTENT")  # with the same length, at another time
    elif change == "mode":
        file.chmod(0o600)
    elif change == "owner":
        os.chown(file, 1, 1)
    elif change == "link":
        (trees.source / "a/link").unlink()
        (trees.source / "a/link").symlink_to("elsewhere")
    elif change == "kind":
        (trees.source / "a/fifo").unlink()
        (trees.source / "a/fifo").mkdir()
    else:
        os.setxattr(trees.target / "a/b/file", "user.extra", b"1")
    assert len(trees.run().changed) == 1
    assert shape(trees.target) == shape(trees.source)
    assert os.listxattr(trees.target / "a/b/file") == os.listxattr(file)


def test_compares_files_with_equal_size_and_time_on_request(trees: Trees) -> None:
    for top in (trees.source, trees.target):
        (top / "x").write_text(f"{top.name[:1]}")
        os.utime(top / "x", (1, 1))
    assert trees.run().changed == []
    assert trees.run(content=True).changed == ["x"]


def test_excluded_paths_stay_unchanged(trees: Trees) -> None:
    for name in ("keep/mine", "lead/keep/mine", "lead/other", "gone"):
        (trees.target / name).mkdir(parents=True)
    (trees.source / "keep").mkdir()
    (trees.source / "keep/theirs").write_text("")
    (trees.source / "lead/new").mkdir(parents=True)
    trees.run(excluded=["keep", "lead/keep"])
    names = {str(p.relative_to(trees.target)) for p in trees.target.rglob("*")}
    assert names == {"keep", "keep/mine", "lead", "lead/keep", "lead/keep/mine", "lead/new"}


def test_newer_files_stay_unchanged(trees: Trees) -> None:
    for name in ("old", "new"):
        (trees.target / name).write_text("target")
        (trees.source / name).write_text("the source's")
    since = max(p.lstat().st_ctime_ns for p in trees.target.iterdir())
    while True:
        (trees.target / "new").write_text("newer")
        (trees.target / "stray").write_text("newer")
        if (trees.target / "new").lstat().st_ctime_ns > since:
            break
    mirror = trees.run(since=since)
    assert (trees.target / "old").read_text() == "the source's"
    assert (trees.target / "new").read_text() == "newer"
    assert sorted(mirror.kept) == ["new", "stray"]


def test_removes_the_workshop_of_an_interrupted_run_and_no_other_directory_of_that_name(
    trees: Trees,
) -> None:
    pid = os.fork()
    if pid == 0:
        place = os.open(trees.target, os.O_RDONLY)
        os.mkdir("half", dir_fd=Workshop(place).fd)
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(trees.target.glob(".ephemeroot-new-*/work/half"))
    (trees.target / ".ephemeroot-new-0123/work").mkdir(parents=True)
    (trees.target / ".ephemeroot-new-0123/work/file").write_text("of another program")
    (trees.target / ".ephemeroot-new-4567/work").mkdir(parents=True)  # before it was marked
    (trees.target / ".ephemeroot-new-89ab").mkdir()  # while it was made, or removed
    (trees.target / "beside").mkdir()
    trees.run(delete=False)
    assert sorted(p.name for p in trees.target.iterdir()) == [".ephemeroot-new-0123", "beside"]


def test_settle_names_the_files_that_keep_changing(trees: Trees) -> None:
    def run() -> Mirror:
        (trees.source / "busy").write_text(os.urandom(8).hex())
        return trees.run()

    assert settle(run).changed == ["busy"]
    assert settle(trees.run).changed == []


@pytest.mark.parametrize("attacked", ["source", "target"])
def test_an_exchanged_directory_is_neither_copied_nor_changed(
    trees: Trees, tmp_path: Path, attacked: str
) -> None:
    """A path that alternates between a directory and a link to root's own."""
    secret = tmp_path / "secret"
    (secret / "inner").mkdir(parents=True)
    (secret / "inner/key").write_text("secret")
    (secret / "inner/key").chmod(0o600)
    before = shape(secret)
    for number in range(30):
        (trees.source / f"d{number}/inner").mkdir(parents=True)
        (trees.source / f"d{number}/inner/own").write_text("own")
    trees.run()
    victim = (trees.source if attacked == "source" else trees.target) / "d7"
    aside = tmp_path / "aside"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.rename(victim, aside)
                os.symlink(secret, victim)
                os.unlink(victim)
                os.rename(aside, victim)
            except OSError:
                if aside.exists() and not os.path.lexists(victim):
                    os.rename(aside, victim)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for round_ in range(proof.rounds(50, 1000)):
            try:
                (trees.source / f"d{round_ % 30}/inner").mkdir(parents=True, exist_ok=True)
                trees.run()
            except OSError:
                continue  # an exchanged entry may have any type, and is reported
            # os.walk skips entries that are exchanged during the walk.
            for folder, _, names in os.walk(trees.target):
                assert "key" not in names, f"the secret was copied to {folder}"
    finally:
        stop.set()
        thread.join()
    assert shape(secret) == before
    assert not list(trees.target.rglob("key"))
    assert stat.S_ISDIR(secret.lstat().st_mode)


def test_keeps_holes(trees: Trees) -> None:
    """In new files, and in a file that is filled in place."""
    with (trees.source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"data")
    trees.run()
    copied = trees.target / "sparse"
    assert (copied.stat().st_size, copied.stat().st_blocks < 1000) == (1 << 40, True)
    (trees.target / "declared").write_text("old")
    source = os.open(trees.source / "sparse", os.O_RDONLY)
    parent = os.open(trees.target, os.O_RDONLY)
    Mirror().file(source, parent, "declared", "declared")
    os.close(source)
    os.close(parent)
    filled = trees.target / "declared"
    assert (filled.stat().st_size, filled.stat().st_blocks < 1000) == (1 << 40, True)
    with filled.open("rb") as file:
        file.seek(1 << 39)
        assert file.read(4) == b"data"
    assert trees.run(content=True).removed == ["declared"]


@pytest.mark.usefixtures("deep_trees")
def test_mirrors_trees_of_any_depth(trees: Trees) -> None:
    """In both trees; a new file at the bottom is copied."""
    bottom = -1
    for top in (trees.source, trees.target):
        here = os.open(top, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        if top == trees.source:
            os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        if bottom >= 0:
            os.close(bottom)
        bottom = here
    assert trees.run().changed == ["/".join(["d"] * 3000) + "/bottom"]
    assert os.listdir(bottom) == ["bottom"]
    os.close(bottom)
    assert trees.run().changed == []


def test_names_an_entry_that_cannot_be_copied_and_continues(trees: Trees) -> None:
    """The target is ext4, and the attribute is too large for it."""
    small = trees.target / "small"
    small.mkdir()
    mounted = []
    try:
        for kind, megabytes, place in (("btrfs", 120, trees.source), ("ext4", 16, small)):
            image = trees.source.parent / kind
            with image.open("wb") as file:
                file.truncate(megabytes << 20)
            subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, place], check=True)
            mounted.append(place)
        (small / "lost+found").rmdir()
        (trees.source / "a").write_text("a")
        (trees.source / "deep/b").mkdir(parents=True)
        (trees.source / "deep/b/file").write_text("b")
        os.setxattr(trees.source / "deep/b/file", "user.x", b"a" * 9000)
        (trees.source / "z").write_text("z")
        trees.target = small
        mirror = trees.run()
        assert [path for path, _ in mirror.skipped] == ["deep/b/file"]
        names = {str(p.relative_to(small)) for p in small.rglob("*")}
        assert names == {"a", "deep", "deep/b", "z"}
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def test_replaces_a_directory_of_another_owner_where_a_user_could_exchange_it(
    trees: Trees,
) -> None:
    """The name may lead to another directory that belongs to root and must not be chowned."""
    (trees.source / "work").mkdir()
    os.chown(trees.source / "work", EVE, EVE)
    for top in (trees.source, trees.target):
        os.chown(top, EVE, EVE)
    (trees.target / "work").mkdir(mode=0o700)
    held = os.open(trees.target / "work", os.O_RDONLY)
    trees.run()
    assert (os.fstat(held).st_uid, os.fstat(held).st_mode & 0o7777) == (0, 0o700)
    assert (trees.target / "work").stat().st_uid == EVE
    os.close(held)


def test_replaces_a_file_with_a_second_name_and_keeps_that_name_unchanged(trees: Trees) -> None:
    (trees.source / "file").write_text("new")
    (trees.target / "elsewhere").write_text("of another")
    (trees.target / "file").hardlink_to(trees.target / "elsewhere")
    source = os.open(trees.source / "file", os.O_RDONLY)
    parent = os.open(trees.target, os.O_RDONLY)
    Mirror().file(source, parent, "file", "file")
    os.close(source)
    os.close(parent)
    assert (trees.target / "file").read_text() == "new"
    assert (trees.target / "elsewhere").read_text() == "of another"
