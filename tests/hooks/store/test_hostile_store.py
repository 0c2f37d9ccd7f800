"""A user who owns part of the store changes it while root walks it.

Nothing outside the store and the new root may be created, chowned, chmodded or mounted over, and no
user may stop the boot.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import proof
from boot import STORE, Boot, copy, directory, file, overlay, parent
from btrfs_image import btrfsutil
from ephemeroot.hooks.store.copyback import CopyBack
from ephemeroot.linux import mountinfo, paths

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

EVE = 4242
MS_BIND, MNT_DETACH = 4096, 2
RACES = "round with an attacker: boot, by threads"
ROUNDS = int(os.environ.get("EPHEMEROOT_ROUNDS", proof.rounds(60, 1000)))


class Victim:
    """A directory that must not change, and a check for changes."""

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
    boot = Boot(tmp_path, "btrfs")
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
def test_each_file_type_at_each_component_of_a_path(
    boot: Boot, victim: Victim, shape: str, depth: int
) -> None:
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


def test_reports_a_declared_file_that_is_a_directory_and_the_reverse(boot: Boot) -> None:
    (boot.store / "f").mkdir()
    (boot.store / "d").write_text("")
    boot.persist(file("/f"), directory("/d"), directory("/after"))
    assert [r.startswith("failed") for r in boot.results()[1:]] == [True, True, False]


def test_binds_an_immutable_directory(boot: Boot) -> None:
    (boot.store / "solid").mkdir()
    if subprocess.run(["chattr", "+i", boot.store / "solid"], capture_output=True).returncode:
        pytest.fail("this tmpfs has no immutable flag: Linux 6.6 or newer is needed")
    boot.persist(directory("/solid"), directory("/solid/below"), directory("/after"))
    assert boot.root("/solid").is_mount()
    assert boot.root("/after").is_mount()
    assert boot.results()[2].startswith("failed")
    subprocess.run(["chattr", "-i", boot.root(STORE) / "solid"], check=True)


def test_binds_existing_content_of_a_read_only_store(boot: Boot) -> None:
    (boot.store / "have").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", boot.store], check=True)
    boot.persist(directory("/have"), directory("/lacks"))
    assert boot.root("/have").is_mount()
    assert "Read-only" in boot.results()[-1]


CROWD = proof.rounds(30_000, 1_000_000)
"""Numbers of names in addition to the declared ones. Their cost is counted, not timed: see
`Listings`.
"""


class Listings:
    """The directories that this process lists while the counter is ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.inodes: list[tuple[int, int]] = []
        sys.addaudithook(self._audit)  # permanently: audit hooks cannot be removed

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in ("os.listdir", "os.scandir"):
            status = os.stat(arguments[0])  # type: ignore[arg-type]
            self.inodes.append((status.st_dev, status.st_ino))


@pytest.fixture(scope="module")
def listings() -> Listings:
    return Listings()


def crowd_one_directory(home: Path) -> None:
    folder = os.open(home, os.O_RDONLY)
    (home / "first").touch()
    for number in range(CROWD):
        os.link("first", str(number), src_dir_fd=folder, dst_dir_fd=folder)
    os.close(folder)


def crowd_many_directories(home: Path) -> None:
    btrfsutil.create_subvolume(str(home / "0"))
    folder = os.open(home / "0", os.O_RDONLY)
    for number in range(CROWD // 16):
        os.mknod(str(number), 0o100644, dir_fd=folder)
    os.close(folder)
    for number in range(1, 16):
        btrfsutil.create_snapshot(str(home / "0"), str(home / str(number)))


@pytest.mark.parametrize(
    ("fstype", "crowd"), [("tmpfs", crowd_one_directory), ("btrfs", crowd_many_directories)]
)
def test_entries_beside_declared_paths_cost_nothing(
    tmp_path: Path, listings: Listings, fstype: str, crowd: Callable[[Path], None]
) -> None:
    """A boot lists no directory of the store."""
    boot = Boot(tmp_path, fstype, 256)
    home = owned(boot.store / "eve")
    (home / "have").mkdir()
    (home / "file").write_text("file")
    (home / "copied").write_text("copied")
    crowd(home)
    (owned(boot.root("/eve")) / "have").mkdir()
    listings.inodes.clear()
    listings.on = True
    boot.persist(
        parent("/eve", user=EVE, group=EVE), directory("/eve/have"), directory("/eve/new"),
        file("/eve/file"), copy("/eve/copied"), overlay("/eve/over"),
    )  # fmt: skip
    listings.on = False
    assert boot.problems() == []
    for name in ("have", "new", "over"):
        assert boot.root(f"/eve/{name}").is_mount()
    store = (boot.root(STORE).stat().st_dev, (boot.root(STORE) / "eve").stat().st_ino)
    assert listings.inodes, "the hook is blind: what the root has is counted"
    assert store not in listings.inodes
    boot.unmount()


def test_a_mount_inside_the_store_is_not_bound_with_it(boot: Boot, victim: Victim) -> None:
    (boot.store / "data/inner").mkdir(parents=True)
    subprocess.run(["mount", "--bind", victim.path, boot.store / "data/inner"], check=True)
    boot.persist(directory("/data"))
    assert not (boot.root("/data/inner/file")).exists()
    subprocess.run(["umount", boot.store / "data/inner"], check=False, capture_output=True)
    victim.assert_untouched()


class Attacker(threading.Thread):
    """Exchanges a directory of the store and a link to the victim, as fast as possible."""

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


def power_off(boot: Boot) -> None:
    """Undo a persistence stage, fast enough for a few hundred rounds: one program for each mount
    would leave most of the time to the attacker.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    store, place = (os.fsencode(path) for path in (boot.root(STORE), boot.store))
    assert libc.mount(store, place, None, ctypes.c_ulong(MS_BIND), None) == 0
    points = [m.point for m in mountinfo.mounts() if m.point.startswith(f"{boot.target}/")]
    for point in reversed(points):
        libc.umount2(os.fsencode(point), MNT_DETACH)


def test_components_exchanged_during_the_stage(boot: Boot, victim: Victim) -> None:
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
            power_off(boot)
    finally:
        attacker.stop.set()
        attacker.join()
    assert attacker.swaps > ROUNDS, "the attacker had no chance: this proves nothing"
    victim.assert_untouched()
    proof.record(RACES, ROUNDS)


class Exchanger(threading.Thread):
    """Puts a directory that belongs to root in place of a new entry that root creates among this
    user's files.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        (home / "roots").mkdir(mode=0o700)
        self.inode = (home / "roots").stat().st_ino
        self.home = os.open(home, os.O_RDONLY)
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            for name in os.listdir(self.home):
                if name not in ("roots", "made"):
                    with suppress(OSError):
                        paths.rename(
                            self.home, name, self.home, "roots", flags=paths.RENAME_EXCHANGE
                        )


def test_a_new_entry_exchanged_while_it_is_created(boot: Boot) -> None:
    home = owned(boot.store / "eve")
    exchanger = Exchanger(home)
    exchanger.start()
    try:
        for _ in range(ROUNDS):
            boot.persist(
                parent("/eve", user=EVE, group=EVE),
                directory("/eve/made", user=EVE, group=EVE, mode=0o777),
            )
            names = [e.path for e in os.scandir(boot.root(STORE) / "eve")]
            found = [Path(n) for n in names if os.stat(n).st_ino == exchanger.inode]
            assert [(p.stat().st_uid, p.stat().st_mode & 0o777) for p in found] == [(0, 0o700)]
            power_off(boot)
            (home / "made").rmdir()
    finally:
        exchanger.stop.set()
        exchanger.join()
        os.close(exchanger.home)
    proof.record(RACES, ROUNDS)


def test_hard_links_do_not_change_their_targets(boot: Boot) -> None:
    """Where the kernel allows it, a user links to root's files in the store."""
    secret = boot.store / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    home = owned(boot.store / "eve")
    for name in ("bound", "copied"):
        os.link(secret, home / name)
    owned(boot.root("/eve"))
    boot.persist(
        parent("/eve", user=EVE, group=EVE),
        file("/eve/bound", user=EVE, mode=0o666),
        copy("/eve/copied", user=EVE, mode=0o666),
    )
    for path in (boot.root("/eve/bound"), boot.root("/eve/copied"), boot.root(STORE) / "secret"):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_file_type_where_a_copy_or_an_overlay_is_declared(
    boot: Boot, victim: Victim, shape: str
) -> None:
    home = owned(boot.store / "eve")
    owned(boot.root("/eve"))
    SHAPES[shape](home / "copied", victim.path / "file")
    SHAPES[shape](home / "over", victim.path)
    boot.persist(
        parent("/eve", user=EVE, group=EVE),
        copy("/eve/copied", user=EVE, mode=0o666),
        overlay("/eve/over", user=EVE, mode=0o777),
        directory("/after"),
    )
    victim.assert_untouched()
    assert not boot.root("/eve/over").is_mount()
    # A link stays a link: its target is neither read nor copied.
    assert boot.root("/eve/copied").is_symlink() == ("link" in shape)
    assert os.path.lexists(boot.root("/eve/copied")) == (shape == "file" or "link" in shape)
    assert boot.root("/after").is_mount()


def test_an_immutable_file_is_copied_and_its_change_copied_back(boot: Boot) -> None:
    solid = boot.store / "solid"
    solid.write_text("x")
    subprocess.run(["chattr", "+i", solid], check=True)
    try:
        boot.persist(copy("/solid"), parent("/after"))
        assert boot.root("/after").is_dir()
        copied = boot.root("/solid")
        with pytest.raises(PermissionError):
            copied.unlink()
        subprocess.run(["chattr", "-i", copied], check=True)
        copied.unlink()
        copied.write_text("changed")
        store = os.open(boot.root(STORE), os.O_PATH)
        root = os.open(boot.target, os.O_RDONLY)
        back = CopyBack(
            [{"path": "/solid", "store": STORE, "source": "solid"}], {STORE: store}, root, 1 << 20
        )
        back.store()
        os.close(store)
        os.close(root)
        assert back.problems == []
        assert (boot.root(STORE) / "solid").read_text() == "changed"
    finally:
        subprocess.run(["chattr", "-i", boot.root(STORE) / "solid"], check=True)


def test_does_not_change_a_mount_that_covers_a_declared_path(boot: Boot, victim: Victim) -> None:
    """Another process mounted the victim over a directory of the store."""
    (boot.store / "data").mkdir()
    subprocess.run(["mount", "--bind", victim.path, boot.store / "data"], check=True)
    boot.persist(directory("/data", user=EVE, mode=0o777), file("/data/file"), parent("/after"))
    assert victim.look() == victim.before
    assert boot.root("/after").is_dir()
    subprocess.run(["umount", boot.store / "data"], check=False, capture_output=True)


def test_files_exchanged_while_they_are_copied(boot: Boot, victim: Victim) -> None:
    """In both directions, with the same user in the store and in the root."""
    (victim.path / "a").mkdir(mode=0o700)
    (victim.path / "a/file").write_text("secret")
    victim.before = victim.look()
    attackers = []
    for top in (boot.store, boot.target):
        home = owned(owned(top / "home") / "eve")
        (owned(home / "a") / "file").write_text("eve's")
        attackers.append(Attacker(home, victim.path / "a"))
    for attacker in attackers:
        attacker.start()
    copied = 0
    try:
        for number in range(ROUNDS):
            boot.persist(
                parent("/home"),
                parent("/home/eve", user=EVE, group=EVE, mode=0o700),
                copy("/home/eve/a/file"),
            )
            copied += boot.results()[-1].startswith(("copied", "already present"))
            store = os.open(boot.root(STORE), os.O_PATH)
            root = os.open(boot.target, os.O_RDONLY)
            entry = {"path": "/home/eve/a/file", "store": STORE, "source": "home/eve/a/file"}
            with suppress(OSError):
                (boot.root("/home/eve/a/file")).write_text(f"eve's {number}")
            (victim.path / "a/file").write_text("secret")
            CopyBack([entry], {STORE: store}, root, 1 << 20).store()
            os.close(store)
            os.close(root)
            power_off(boot)
    finally:
        for attacker in attackers:
            attacker.stop.set()
            attacker.join()
    assert min(attacker.swaps for attacker in attackers) > ROUNDS
    assert copied, "the attacker always won: this proves nothing about copies"
    for top in (boot.store, boot.target):
        for path in (top / "home/eve").rglob("file"):
            if "trap" not in path.parts and not path.parent.is_symlink():
                assert path.read_text() != "secret"
    victim.assert_untouched()
    proof.record(RACES, ROUNDS)
