"""A user who owns part of the store, and changes it while root walks it.

Nothing outside the store and the new root may be created, chowned, chmodded or mounted
over, and nothing a user does may stop the boot.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boot import STORE, Boot, directory, file, parent
from ephemeroot.linux import mountinfo, paths

pytestmark = [pytest.mark.requires_root, pytest.mark.usefixtures("private_mounts")]

EVE = 4242
ROUNDS = int(os.environ.get("EPHEMEROOT_ROUNDS", "200"))


class Victim:
    """A place nobody may touch, and the means to see whether somebody did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        (path / "file").write_text("secret")
        (path / "file").chmod(0o600)
        self.before = self.look()

    def look(self) -> list[tuple[str, int, int, int]]:
        found = []
        for path in (self.path, *sorted(self.path.rglob("*"))):
            status = path.lstat()
            found.append((str(path), status.st_mode, status.st_uid, status.st_gid))
        return found

    def assert_untouched(self) -> None:
        assert self.look() == self.before
        points = [m.point for m in mountinfo.mounts()]
        assert not [p for p in points if p.startswith(str(self.path))]


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "victim")


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    boot = Boot(tmp_path)
    yield boot
    boot.unmount()


def owned(path: Path) -> Path:
    path.mkdir()
    os.chown(path, EVE, EVE)
    return path


SHAPES: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda p, v: p.symlink_to(v),
    "relative link": lambda p, v: p.symlink_to(os.path.relpath(v, p.parent)),
    "link to proc": lambda p, v: p.symlink_to("/proc/self/root" + str(v)),
    "fifo": lambda p, v: os.mkfifo(p),
    "socket": lambda p, v: os.mknod(p, 0o140666),
    "device": lambda p, v: os.mknod(p, 0o020666, os.makedev(1, 3)),
    "file": lambda p, v: p.write_text(""),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_every_shape_at_every_component(boot: Boot, victim: Victim, shape: str, depth: int) -> None:
    names = ["home", "eve", "a", "b"]
    place = boot.store
    for name in names[:depth]:
        place = owned(place / name)
    SHAPES[shape](place / names[depth], victim.path)
    boot.persist(
        *[parent("/" + "/".join(names[: n + 1]), user=EVE, group=EVE) for n in range(3)],
        directory("/home/eve/a/b", user=EVE, group=EVE, mode=0o777),
        file("/home/eve/a/file"),
        directory("/after"),
    )
    victim.assert_untouched()
    assert boot.root("/after").is_mount()
    assert any("failed" in result for result in boot.results())


def test_a_declared_file_that_is_a_directory_and_the_other_way_round(boot: Boot) -> None:
    (boot.store / "f").mkdir()
    (boot.store / "d").write_text("")
    boot.persist(file("/f"), directory("/d"), directory("/after"))
    assert [r.startswith("failed") for r in boot.results()[1:]] == [True, True, False]


def test_an_immutable_directory_is_bound_and_stops_nothing(boot: Boot) -> None:
    (boot.store / "solid").mkdir()
    if subprocess.run(["chattr", "+i", boot.store / "solid"], capture_output=True).returncode:
        pytest.fail("this tmpfs has no immutable flag: Linux 6.6 or newer is needed")
    boot.persist(directory("/solid"), directory("/solid/below"), directory("/after"))
    assert boot.root("/solid").is_mount()
    assert boot.root("/after").is_mount()
    assert boot.results()[2].startswith("failed")
    subprocess.run(["chattr", "-i", boot.root(STORE) / "solid"], check=True)


def test_a_read_only_store_binds_what_it_has(boot: Boot) -> None:
    (boot.store / "have").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", boot.store], check=True)
    boot.persist(directory("/have"), directory("/lacks"))
    assert boot.root("/have").is_mount()
    assert "Read-only" in boot.results()[-1]


def test_a_crowded_directory_costs_nothing(boot: Boot) -> None:
    crowd = boot.store / "crowd"
    crowd.mkdir()
    for number in range(20000):
        (crowd / str(number)).touch()
    boot.persist(parent("/crowd"), directory("/crowd/mine"))
    assert boot.root("/crowd/mine").is_mount()


def test_a_mount_inside_the_store_is_not_dragged_along(boot: Boot, victim: Victim) -> None:
    (boot.store / "data/inner").mkdir(parents=True)
    subprocess.run(["mount", "--bind", victim.path, boot.store / "data/inner"], check=True)
    boot.persist(directory("/data"))
    assert not (boot.root("/data/inner/file")).exists()
    subprocess.run(["umount", boot.store / "data/inner"], check=False, capture_output=True)
    victim.assert_untouched()


class Attacker(threading.Thread):
    """Swaps a directory of the store and a link to the victim, as fast as it can."""

    def __init__(self, directory: Path, victim: Path) -> None:
        super().__init__(daemon=True)
        self.directory = os.open(directory, os.O_PATH)
        (directory / "trap").symlink_to(victim)
        self.stop = threading.Event()
        self.swaps = 0

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                paths.rename(
                    self.directory, "a", self.directory, "trap", flags=paths.RENAME_EXCHANGE
                )
                self.swaps += 1
            except OSError:
                continue


def detach_all(root: Path) -> None:
    """Undo a persistence stage, as quickly as a few hundred rounds need it."""
    libc = ctypes.CDLL(None, use_errno=True)
    points = [m.point for m in mountinfo.mounts() if m.point.startswith(f"{root}/")]
    for point in reversed(points):
        libc.umount2(os.fsencode(point), 2)


def test_components_swapped_while_the_stage_walks(boot: Boot, victim: Victim) -> None:
    home = owned(owned(boot.store / "home") / "eve")
    owned(home / "a")
    attacker = Attacker(home, victim.path)
    attacker.start()
    bound = 0
    try:
        for _ in range(ROUNDS):
            boot.persist(
                parent("/home"),
                parent("/home/eve", user=EVE, group=EVE, mode=0o700),
                parent("/home/eve/a", user=EVE, group=EVE),
                directory("/home/eve/a/b", user=EVE, group=EVE, mode=0o777),
                file("/home/eve/a/file"),
                directory("/after"),
            )
            assert boot.root("/after").is_mount()
            victim.assert_untouched()
            bound += boot.root("/home/eve/a/b").is_mount()
            store = boot.root(STORE)
            subprocess.run(["mount", "--bind", store, boot.store], check=True)
            detach_all(boot.target)
    finally:
        attacker.stop.set()
        attacker.join()
    assert attacker.swaps > ROUNDS, "the attacker had no chance: this proves nothing"
    victim.assert_untouched()
