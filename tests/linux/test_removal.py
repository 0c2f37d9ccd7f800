"""Removing trees: all their content, but no mount and no subvolume."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from btrfs_image import btrfsutil, fresh_disk
from checkout import CHECKOUT
from ephemeroot.linux import removal
from ephemeroot.linux.walk import Walk
from proof import sample

pytestmark = pytest.mark.requires_loop

# btrfs and this program have no limit for the depth of directories, other filesystems do.
DEEP = 5000

_FS_IOC_SETFLAGS, _IMMUTABLE = 0x40086602, 0x10


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with fresh_disk(tmp_path_factory.mktemp("removal"), 200) as disk:
        yield disk.top


@pytest.fixture
def place(disk: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on a btrfs, in which ``precious`` must survive with all its content."""
    path = disk / f"case{next(_NUMBERS)}"
    (path / "precious/inner").mkdir(parents=True)
    (path / "precious/file").write_text("precious")
    (path / "precious/inner/file").write_text("precious")
    yield path
    for point in reversed(_points(path)):
        subprocess.run(["umount", point], check=True)


_NUMBERS = itertools.count()


def _points(path: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(f"{path}/")]


def state(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for folder, _, files in os.walk(top):
        found[folder] = os.lstat(folder).st_ino
        for name in files:
            path = Path(folder, name)
            found[str(path)] = (path.lstat().st_ino, path.read_bytes())
    return found


def remove(place: Path, name: str = "tree", **options: bool) -> bool:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return removal.remove(fd, name, **options)
    finally:
        os.close(fd)


# Obstacles that stop a removal.


@dataclass(frozen=True)
class Obstacle:
    """An entry of the tree that must still be in its place afterwards, with its content.

    ``message`` is the error of the removal.
    """

    name: str
    make: Callable[[Path, Path], None]
    message: str


def _mount_tmpfs(path: Path, place: Path) -> None:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    (path / "file").write_text("precious")


def _bind_directory(path: Path, place: Path) -> None:
    path.mkdir()
    subprocess.run(["mount", "--bind", place / "precious", path], check=True)


def _bind_over_content(path: Path, place: Path) -> None:
    path.mkdir()
    (path / "hidden").write_text("hidden by the mount")
    subprocess.run(["mount", "--bind", place / "precious", path], check=True)


def _bind_on_itself(path: Path, place: Path) -> None:
    path.mkdir()
    (path / "file").write_text("precious")
    subprocess.run(["mount", "--bind", path, path], check=True)


def _bind_file(path: Path, place: Path) -> None:
    path.write_text("hidden by the mount")
    subprocess.run(["mount", "--bind", place / "precious/file", path], check=True)


def _subvolume(path: Path, place: Path) -> None:
    btrfsutil.create_subvolume(str(path))
    (path / "file").write_text("precious")


def _read_only_subvolume(path: Path, place: Path) -> None:
    _subvolume(path, place)
    btrfsutil.set_subvolume_read_only(str(path), True)


def _empty_subvolume(path: Path, place: Path) -> None:
    btrfsutil.create_subvolume(str(path))


def _snapshot(path: Path, place: Path) -> None:
    source = place / f"source{next(_NUMBERS)}"
    _subvolume(source, place)
    btrfsutil.create_snapshot(str(source), str(path))


OBSTACLES = (
    Obstacle("tmpfs", _mount_tmpfs, "Invalid cross-device link"),
    Obstacle("bind", _bind_directory, "Invalid cross-device link"),
    Obstacle("bind-over-content", _bind_over_content, "Invalid cross-device link"),
    Obstacle("bind-on-itself", _bind_on_itself, "Invalid cross-device link"),
    Obstacle("bind-of-a-file", _bind_file, "Device or resource busy"),
    Obstacle("subvolume", _subvolume, "is a subvolume"),
    Obstacle("read-only-subvolume", _read_only_subvolume, "is a subvolume"),
    Obstacle("empty-subvolume", _empty_subvolume, "is a subvolume"),
    Obstacle("snapshot", _snapshot, "is a subvolume"),
)
PLACES = ("", "inner", "inner/inner/inner")
PAIRS = [*itertools.product(OBSTACLES, PLACES)]


@pytest.mark.parametrize(
    ("obstacle", "where"), PAIRS, ids=[f"{o.name}-{w.count('/') + bool(w)}" for o, w in PAIRS]
)
def test_stops_at_entries_outside_the_tree(place: Path, obstacle: Obstacle, where: str) -> None:
    path = place / "tree" / where / "obstacle" if where else place / "tree"
    path.parent.mkdir(parents=True, exist_ok=True)
    obstacle.make(path, place)
    for number in range(5) if where else ():
        (path.parent / str(number)).write_text("")
    before = state(path), state(place / "precious")
    with pytest.raises(OSError, match=obstacle.message):
        remove(place)
    assert (state(path), state(place / "precious")) == before


def test_stops_at_each_of_several_obstacles(place: Path) -> None:
    """Trees with two or three obstacles at random places."""
    chance = random.Random(1)
    combinations = [c for n in (2, 3) for c in itertools.combinations(OBSTACLES, n)]
    for number, chosen in enumerate(sample(combinations, 12)):
        tree = place / f"tree{number}"
        paths = []
        for obstacle in chosen:
            path = tree / "/".join(chance.choices("ab", k=chance.randrange(1, 4))) / obstacle.name
            path.parent.mkdir(parents=True, exist_ok=True)
            obstacle.make(path, place)
            paths.append(path)
        before = [state(path) for path in paths], state(place / "precious")
        with pytest.raises(OSError, match="|".join(one.message for one in chosen)):
            remove(place, tree.name)
        assert ([state(path) for path in paths], state(place / "precious")) == before


def test_removes_subvolumes_on_request(place: Path) -> None:
    for name in ("tree/one", "tree/inner/two"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        _subvolume(place / name, place)
    _subvolume(place / "tree/one/nested", place)
    assert remove(place, subvolumes=True)
    assert sorted(os.listdir(place)) == ["precious"]


def test_never_removes_a_read_only_subvolume(place: Path) -> None:
    (place / "tree").mkdir()
    _read_only_subvolume(place / "tree/one", place)
    with pytest.raises(OSError, match="Read-only file system"):
        remove(place, subvolumes=True)
    assert (place / "tree/one/file").read_text() == "precious"


def test_inode_256_is_an_ordinary_directory_on_other_filesystems(tmp_path: Path) -> None:
    """Only on btrfs does the number mean a subvolume."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        wanted = tmp_path / "tree"
        wanted.mkdir()
        made = 0
        while made < 256:
            path = wanted / str(made)
            path.mkdir()
            made = path.stat().st_ino
        assert made == 256
        assert remove(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_names_an_immutable_file_and_keeps_it(place: Path) -> None:
    (place / "tree/inner").mkdir(parents=True)
    kept = place / "tree/inner/kept"
    kept.write_text("kept")
    fd = os.open(kept, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, _IMMUTABLE.to_bytes(8, "little"))
        with pytest.raises(PermissionError) as raised:
            remove(place)
        assert raised.value.filename == "kept"
        assert kept.read_text() == "kept"
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, bytes(8))
    finally:
        os.close(fd)
    assert remove(place)


# Entries that stop no removal.


def test_accepts_a_missing_entry(place: Path) -> None:
    assert remove(place, "nothing")


@pytest.mark.parametrize("kind", ["file", "link", "link-to-directory", "fifo", "socket", "device"])
def test_unlinks_files_and_links_and_never_follows_them(place: Path, kind: str) -> None:
    path = place / "tree"
    if kind == "file":
        path.write_text("")
    elif kind.startswith("link"):
        path.symlink_to(place / ("precious" if "directory" in kind else "precious/file"))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o140600 if kind == "socket" else 0o20600, os.makedev(1, 3))
    before = state(place / "precious")
    assert remove(place)
    assert not path.is_symlink()
    assert not path.exists()
    assert state(place / "precious") == before


def test_removes_a_tree_deeper_than_descriptors_and_recursion(place: Path) -> None:
    here = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for name in ["tree", *["d"] * DEEP]:
        os.mkdir(name, dir_fd=here)
        deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        assert remove(place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not (place / "tree").exists()


def _to_a_link(place: Path, path: Path) -> None:
    path.rename(place / "away")
    path.symlink_to(place / "precious")


def _to_another_directory(place: Path, path: Path) -> None:
    path.rename(place / "away")
    (place / "precious/inner").rename(path)
    (place / "away").rename(place / "precious/inner")


def _moved_into_another(place: Path, path: Path) -> None:
    path.rename(place / "precious" / path.name)


EXCHANGES = (_to_a_link, _to_another_directory, _moved_into_another)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("method", ["enter", "leave"])
@pytest.mark.parametrize("path", ["tree", "tree/a", "tree/a/b"])
def test_an_exchange_by_another_process_leads_to_no_other_tree(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    method: str,
    exchange: Callable[[Path, Path], None],
) -> None:
    """At each step of the walk, the directory is exchanged just before the program opens it or
    returns from it.
    """
    original = getattr(Walk, method)
    for step in itertools.count():
        for folder in ("tree", "tree/a", "tree/a/b"):
            (place / folder / "inner").mkdir(parents=True)
            (place / folder / "inner/file").touch()
        steps = itertools.count()

        def interrupted(
            walk: Walk,
            *names: str,
            steps: Iterator[int] = steps,
            step: int = step,
        ) -> object:
            if next(steps) == step and (place / path).is_dir():
                exchange(place, place / path)
            return original(walk, *names)

        with monkeypatch.context() as patch:
            patch.setattr(Walk, method, interrupted)
            with suppress(OSError):  # either result is fine
                remove(place)
        # Entries that another process moves into the tree may be removed with it. Nothing else is.
        assert (place / "precious/file").read_text() == "precious"
        if exchange is not _to_another_directory:
            assert (place / "precious/inner/file").read_text() == "precious"
        _start_again(place)
        if next(steps) <= step:
            return  # this step was not reached: all steps have been tried


def _start_again(place: Path) -> None:
    for path in place.iterdir():
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    (place / "precious/inner").mkdir(parents=True)
    (place / "precious/file").write_text("precious")
    (place / "precious/inner/file").write_text("precious")


# This is the only function that removes trees.


BANNED = {
    "import shutil\nshutil.rmtree('x')": "removal",
    "from shutil import rmtree\nrmtree('x')": "removal",
    "import tempfile\ntempfile.TemporaryDirectory()": "namespace",
    "import tempfile as t\nt.TemporaryDirectory()": "namespace",
    "import tempfile\ntempfile.mkdtemp()": "namespace",
    "import tempfile\ntempfile.gettempdir()": "namespace",
}
RUFF = CHECKOUT / ".venv/bin/ruff"


@pytest.mark.parametrize("folder", ["ephemeroot/cli", "ephemeroot/linux", "hooks", "wipers"])
def test_no_other_code_of_the_program_removes_trees(folder: str) -> None:
    for text, named in BANNED.items():
        done = subprocess.run(
            [RUFF, "check", "--select", "TID251", "--output-format", "concise",
             "--stdin-filename", CHECKOUT / folder / "example.py", "-"],
            input=text, capture_output=True, text=True, check=False, cwd=CHECKOUT,
        )  # fmt: skip
        assert done.returncode == 1, text
        assert "TID251" in done.stdout, text
        assert f"ephemeroot.linux.{named}" in done.stdout, text
