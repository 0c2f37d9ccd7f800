"""Generated trees: a copy equals its source, whatever it contains, on any filesystem."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proof
from ephemeroot.linux import comparison
from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.paths import names
from ephemeroot.linux.removal import remove
from ephemeroot.linux.workshop import Workshop

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.xfs")]

FILESYSTEMS = ("btrfs", "ext4", "tmpfs", "xfs")
SIZE = 320 << 20

entry_names = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..") and not {0, ord("/")} & set(name)
)
modes = st.integers(0, 0o7777)
owners = st.tuples(st.integers(0, 70_000), st.integers(0, 70_000))
attributes = st.dictionaries(
    st.sampled_from(["user.one", "user.two", "trusted.three"]), st.binary(max_size=200), max_size=2
)
# The extents of a file: offset and length, with holes between and after them.
contents = st.tuples(
    st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(1, 9000)), max_size=4),
    st.integers(0, 1 << 41),
)
leaves = st.one_of(
    st.tuples(st.just("file"), contents),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=300).filter(lambda to: 0 not in to)),
    st.tuples(st.just("fifo"), st.none()),
    st.tuples(st.just("socket"), st.none()),
    st.tuples(st.just("device"), st.sampled_from([(1, 3), (1, 5), (259, 7)])),
    st.tuples(st.just("same"), st.none()),  # one more name of an earlier file
)
entries = st.recursive(
    st.tuples(leaves, modes, owners, attributes),
    lambda inside: st.tuples(
        st.tuples(st.just("directory"), st.dictionaries(entry_names, inside, max_size=5)),
        modes, owners, attributes,
    ),
    max_leaves=20,
)  # fmt: skip
trees = st.dictionaries(entry_names, entries, max_size=6)


class Maker:
    """Creates the generated tree without entries that the kernel refuses (an attribute of
    a link).
    """

    def __init__(self) -> None:
        self.files: list[tuple[int, str]] = []

    def make(self, directory: int, name: bytes, entry: Any) -> None:
        (kind, what), mode, owner, values = entry
        text = os.fsdecode(name)
        if kind == "directory":
            os.mkdir(text, dir_fd=directory)
            inside = os.open(text, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            for one, below in what.items():
                self.make(inside, one, below)
            self._finish(inside, mode, owner, values)
            os.close(inside)
        elif kind == "link":
            os.symlink(os.fsdecode(what), text, dir_fd=directory)
            os.chown(text, *owner, dir_fd=directory, follow_symlinks=False)
        elif kind == "same":
            if self.files:
                first = self.files[0]
                try:
                    os.link(first[1], text, src_dir_fd=first[0], dst_dir_fd=directory)
                except OSError:
                    pass
        else:
            self._leaf(directory, text, kind, what)
            fd = os.open(text, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
            self._finish(fd, mode, owner, {} if kind != "file" else values)
            os.close(fd)

    def _leaf(self, directory: int, name: str, kind: str, what: Any) -> None:
        if kind == "fifo":
            os.mkfifo(name, dir_fd=directory)
        elif kind == "socket":
            os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=directory)
        elif kind == "device":
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(*what), dir_fd=directory)
        else:
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=directory)
            stretches, size = what
            os.ftruncate(fd, size)
            for offset, length in stretches:
                os.pwrite(fd, os.urandom(length), offset)
            os.close(fd)
            self.files.append((os.dup(directory), name))

    @staticmethod
    def _finish(fd: int, mode: int, owner: tuple[int, int], values: dict[str, bytes]) -> None:
        where = f"/proc/self/fd/{fd}"
        os.chown(where, *owner)
        os.chmod(where, mode)
        for name, value in values.items():
            os.setxattr(where, name, value)
        os.utime(where, ns=(10**18 + 1, 10**18 + mode))

    def close(self) -> None:
        for directory, _ in self.files:
            os.close(directory)


def picture(directory: int, *, whole: bool = True) -> dict[str, object]:
    """Everything of a tree that a copy must preserve. Content is represented by its data and its
    holes.
    """
    found: dict[str, object] = {}
    groups: dict[tuple[int, int], list[str]] = {}
    todo = [("", os.dup(directory))]
    while todo:
        path, here = todo.pop()
        for name in names(here):
            below = f"{path}/{name}"
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=here)
            status = os.fstat(fd)
            kind = stat.S_IFMT(status.st_mode)
            if kind != stat.S_IFSOCK:
                where = f"/proc/self/fd/{fd}"
                what: object = status.st_rdev
                if kind == stat.S_IFLNK:
                    what = os.readlink("", dir_fd=fd)
                elif kind == stat.S_IFREG:
                    what = _data(where, status.st_size)
                    groups.setdefault((status.st_dev, status.st_ino), []).append(below)
                values = {one: os.getxattr(where, one) for one in os.listxattr(where)
                          if not one.startswith("btrfs.")}  # fmt: skip
                found[below] = (
                    status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, what, values,
                )  # fmt: skip
            if kind == stat.S_IFDIR:
                todo.append((below, os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)))
            os.close(fd)
        os.close(here)
    found[""] = sorted(sorted(group) for group in groups.values())
    return found


def _data(path: str, size: int) -> tuple[int, list[tuple[int, bytes]]]:
    """The size, and every block that is not zero."""
    fd = os.open(path, os.O_RDONLY)
    found, position = [], 0
    try:
        while position < size:
            try:
                position = os.lseek(fd, position, os.SEEK_DATA)
            except OSError:
                break
            block = os.pread(fd, 4096, position - position % 4096)
            position += 4096 - position % 4096
            if block.count(0) != len(block):
                found.append((position, block))
    finally:
        os.close(fd)
    return size, found


@contextmanager
def filesystem(kind: str, folder: Path) -> Iterator[Path]:
    point = folder / kind
    point.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", point], check=True)
    else:
        image = folder / f"{kind}.image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        quiet = ["-q", "-F"] if kind == "ext4" else ["-q"]
        subprocess.run([f"mkfs.{kind}", *quiet, image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture(scope="module")
def places(private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("filesystems")
    with (
        filesystem("btrfs", folder) as btrfs,
        filesystem("ext4", folder) as ext4,
        filesystem("tmpfs", folder) as tmpfs,
        filesystem("xfs", folder) as xfs,
    ):
        yield [btrfs, ext4, tmpfs, xfs]


@settings(max_examples=proof.rounds(40, 1500), deadline=None)
@given(tree=trees, source=st.integers(0, 3), target=st.integers(0, 3))
def test_a_copy_of_any_tree_between_any_filesystems_equals_it(
    places: list[Path], tree: dict[bytes, Any], source: int, target: int
) -> None:
    old = os.open(places[source], os.O_RDONLY)
    new = os.open(places[target], os.O_RDONLY)
    maker = Maker()
    skipped: list[tuple[str, str]] = []
    try:
        os.mkdir("tree", dir_fd=old)
        top = os.open("tree", os.O_RDONLY, dir_fd=old)
        for name, entry in tree.items():
            maker.make(top, name, entry)
        expected = picture(top)
        os.close(top)
        with Workshop(new) as workshop:
            Copier(skipped=lambda *one: skipped.append(one)).copy(old, "tree", workshop.fd, "copy")
            workshop.deliver("copy", "copy")
        copied = os.open("copy", os.O_RDONLY, dir_fd=new)
        found = picture(copied)
        os.close(copied)
        left_out = {f"/{path}" for path, _ in skipped}
        groups = [expected.pop(""), found.pop("")]
        for path, facts in expected.items():
            if path in left_out:
                assert path not in found
            else:
                assert found.pop(path) == facts, path
        assert found == {}
        if not left_out:
            assert groups[0] == groups[1]
    finally:
        maker.close()
        remove(old, "tree")
        remove(new, "copy")
        os.close(old)
        os.close(new)


@pytest.fixture
def place(places: list[Path], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A new directory on the filesystem that the test names."""
    top = places[FILESYSTEMS.index(request.param)] / tmp_path.name
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    yield fd
    os.close(fd)
    subprocess.run(["rm", "-rf", top], check=True)


def write(directory: int, name: str, *stretches: tuple[int, bytes], size: int = 0) -> None:
    fd = os.open(name, os.O_CREAT | os.O_RDWR, 0o644, dir_fd=directory)
    if size:
        os.ftruncate(fd, size)
    for offset, data in stretches:
        os.pwrite(fd, data, offset)
    os.utime(fd, ns=(1, 1))
    os.close(fd)


@pytest.mark.parametrize("place", ["btrfs", "tmpfs"], indirect=True)
def test_copies_and_compares_seven_exabytes_of_hole_without_reading(place: int) -> None:
    write(place, "one", size=7 << 60)
    meter = Meter(Bounds(bytes_copied=0, bytes_read=0))
    Copier(meter.bounds).copy_file(place, "one", place, "two")
    assert comparison.same(place, "one", place, "two", meter)
    write(place, "one", (3 << 60, b"x"), size=7 << 60)
    with pytest.raises(OutOfBounds) as raised:
        comparison.same(place, "one", place, "two", meter)
    assert (raised.value.bound, raised.value.path) == ("bytes_read", "one")
    meter = Meter(Bounds(bytes_read=1 << 16))
    assert not comparison.same(place, "one", place, "two", meter)
    assert 0 < meter.read <= 8192


@pytest.mark.parametrize("place", ["btrfs", "xfs"], indirect=True)
def test_does_not_read_shared_extents_but_changed_ones(place: int) -> None:
    write(place, "one", (0, os.urandom(8 << 20)))
    Copier(Bounds(bytes_copied=0)).copy_file(place, "one", place, "two")
    assert comparison.same(place, "one", place, "two", Bounds(bytes_read=0))
    write(place, "two", (5 << 20, b"y" * 5000))  # not synced: only in memory
    meter = Meter(Bounds())
    assert not comparison.same(place, "one", place, "two", meter)
    assert meter.read <= 4 << 20
    fd = os.open("one", os.O_RDONLY, dir_fd=place)
    data = os.pread(fd, 8 << 20, 0)
    os.close(fd)
    write(place, "three", (0, data))
    meter = Meter(Bounds())
    assert comparison.same(place, "one", place, "three", meter)
    assert meter.read == 16 << 20


stretch_lists = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=6)


@settings(max_examples=proof.rounds(60, 3000), deadline=None)
@given(
    one=stretch_lists, other=stretch_lists, punched=stretch_lists, shares=st.booleans(),
    where=st.integers(0, 3),
)  # fmt: skip
def test_the_comparison_agrees_with_reading_all_content(
    places: list[Path],
    one: list[tuple[int, int]],
    other: list[tuple[int, int]],
    punched: list[tuple[int, int]],
    shares: bool,
    where: int,
) -> None:
    """Blocks with a few values, holes, written zeros, and extents that are shared or not."""
    directory = os.open(places[where], os.O_RDONLY)
    size = 50 * 4096
    try:
        write(directory, "one", *((n * 4096, bytes([1]) * 4096 * m) for n, m in one), size=size)
        if shares:
            Copier().copy_file(directory, "one", directory, "two")
        write(directory, "two", *((n * 4096, bytes([1]) * 4096 * m) for n, m in other), size=size)
        write(directory, "two", *((n * 4096, bytes(4096 * m)) for n, m in punched))
        for name in ("one", "two"):
            os.truncate(f"/proc/self/fd/{directory}/{name}", size)
            os.utime(f"/proc/self/fd/{directory}/{name}", ns=(1, 1))
        texts = [Path(f"/proc/self/fd/{directory}/{name}").read_bytes() for name in ("one", "two")]
        found = comparison.same(directory, "one", directory, "two", Bounds())
        assert found == (texts[0] == texts[1])
    finally:
        for name in ("one", "two"):
            os.unlink(name, dir_fd=directory)
        os.close(directory)


@pytest.mark.parametrize("place", ["ext4"], indirect=True)
def test_names_entries_that_do_not_fit_and_copies_the_rest(place: int, places: list[Path]) -> None:
    btrfs = os.open(places[0], os.O_RDONLY)
    try:
        os.makedirs(places[0] / "tree/deep")
        tree = os.open("tree", os.O_RDONLY, dir_fd=btrfs)
        write(tree, "large", size=17 << 40)
        write(tree, "attribute", (0, b"x"))
        os.setxattr(places[0] / "tree/attribute", "user.x", b"a" * 9000)
        write(tree, "deep/fine", (0, b"y"))
        os.setxattr(places[0] / "tree/deep", "user.x", b"a" * 9000)
        os.close(tree)
        skipped: dict[str, str] = {}
        copier = Copier(skipped=skipped.__setitem__)
        copier.copy(btrfs, "tree", place, "copy")
        assert sorted(skipped) == ["attribute", "deep", "large"]
        assert "user.x" in skipped["attribute"]
        assert "user.x" in skipped["deep"]
        copy = os.open("copy", os.O_RDONLY, dir_fd=place)
        assert (sorted(os.listdir(copy)), copier.entries) == (["deep"], 3)
        os.close(copy)
        with pytest.raises(OSError, match=r"File too large|does not fit"):
            Copier().copy(btrfs, "tree", place, "again")
    finally:
        remove(btrfs, "tree")
        os.close(btrfs)


@pytest.mark.parametrize("place", ["tmpfs"], indirect=True)
def test_a_full_disk_ends_the_copy_without_blaming_an_entry(
    place: int, tmp_path: Path, private_mounts: None
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    options = "mode=0755,size=1m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", small], check=True)
    target = os.open(small, os.O_RDONLY)
    try:
        os.mkdir("tree", dir_fd=place)
        tree = os.open("tree", os.O_RDONLY, dir_fd=place)
        for number in range(8):
            write(tree, str(number), (0, os.urandom(300_000)))
        os.close(tree)
        skipped: list[str] = []
        with pytest.raises(OSError, match="No space left"):
            Copier(skipped=lambda *one: skipped.append(one[0])).copy(place, "tree", target, "copy")
        assert skipped == []
        assert remove(target, "copy")
    finally:
        os.close(target)
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("place", ["tmpfs"], indirect=True)
@pytest.mark.parametrize(
    ("bounds", "bound", "left"),
    [
        (Bounds(bytes_copied=25_000), "bytes_copied", 2),
        (Bounds(entries=4), "entries", 0),
        (Bounds(file_bytes=9_999), "file_bytes", 0),
        (Bounds(depth=1), "depth", 4),
    ],
)
def test_each_limit_ends_a_copy_or_leaves_entries_out(
    place: int, bounds: Bounds, bound: str, left: int
) -> None:
    os.mkdir("tree", dir_fd=place)
    tree = os.open("tree", os.O_RDONLY, dir_fd=place)
    for number in range(4):
        write(tree, str(number), (0, os.urandom(10_000)))
    os.mkdir("inner", dir_fd=tree)
    os.mkdir("inner/most", dir_fd=tree)
    os.close(tree)
    with pytest.raises(OutOfBounds) as raised:
        Copier(bounds).copy(place, "tree", place, "copy")
    assert raised.value.bound == bound
    remove(place, "copy")
    skipped: list[tuple[str, str]] = []
    copier = Copier(bounds, skipped=lambda *one: skipped.append(one), partial=True)
    try:
        copier.copy(place, "tree", place, "copy")
    except OutOfBounds as reason:
        # The directory itself cannot be listed, so none of its names are known.
        assert reason.bound == bound == "entries"  # noqa: PT017
        return
    copy = os.open("copy", os.O_RDONLY, dir_fd=place)
    assert len([name for name in os.listdir(copy) if name != "inner"]) == left
    os.close(copy)
    assert skipped
    if bound in ("bytes_copied", "deadline"):
        assert copier.exhausted is not None
        assert copier.exhausted.bound == bound
    else:
        assert copier.exhausted is None


@pytest.mark.parametrize("place", ["tmpfs"], indirect=True)
def test_keeps_files_copied_before_the_deadline_and_counts_the_others(place: int) -> None:
    os.makedirs(f"/proc/self/fd/{place}/tree/inner")
    tree = os.open("tree", os.O_RDONLY, dir_fd=place)
    for number in range(9):
        write(tree, f"inner/{number}", (0, os.urandom(10_000)))
    os.chmod("inner", 0o751, dir_fd=tree)
    os.close(tree)
    bounds = Bounds()
    seen: list[str] = []

    def progress(name: str) -> None:
        seen.append(name)
        if len(seen) == 3:
            bounds.deadline = 0

    skipped: dict[str, str] = {}
    copier = Copier(bounds, progress=progress, skipped=skipped.__setitem__, partial=True)
    copier.copy(place, "tree", place, "copy")
    assert copier.exhausted is not None
    assert copier.exhausted.bound == "deadline"
    copy = os.open("copy", os.O_RDONLY, dir_fd=place)
    assert sorted(os.listdir(copy)) == ["inner"]
    assert os.stat("inner", dir_fd=copy).st_mode & 0o7777 == 0o751
    inner = os.open("inner", os.O_RDONLY, dir_fd=copy)
    assert sorted(os.listdir(inner)) == sorted(seen)
    for fd in (copy, inner):
        os.close(fd)
    assert "5 entries in it left out" in skipped["inner"]
    assert len(skipped) == 2, skipped
    remove(place, "copy")
    with pytest.raises(OutOfBounds, match="the time limit is reached"):
        Copier(bounds, skipped=skipped.__setitem__).copy(place, "tree", place, "copy")


@pytest.mark.parametrize("place", ["btrfs"], indirect=True)
def test_refuses_a_target_that_users_can_write_to(place: int) -> None:
    write(place, "one")
    os.mkdir("users", 0o755, dir_fd=place)
    os.chown("users", 4242, 4242, dir_fd=place)
    users = os.open("users", os.O_RDONLY, dir_fd=place)
    with pytest.raises(PermissionError):
        Copier().copy(place, "one", users, "two")
    with Workshop(users) as workshop:
        Copier().copy(place, "one", workshop.fd, "two")
        workshop.deliver("two", "two")
    assert names(users) == ["two"]
    os.close(users)
