"""Failing disks: everything that cannot be read or written is named, and no content is lost or
invented.

`test_seed_errors` injects every error at every call of seeding; here the kernel itself returns EIO,
for blocks that cannot be read and for a device that stops accepting writes (`failing_disk`). The
content of the disk is finally read from another copy of it, because data that is only in memory is
lost with the power.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import proof
import seeding_driver
from btrfs_image import Disk
from ephemeroot import cli
from ephemeroot.hooks.store.copyback import CopyBack
from failing_disk import UNREADABLE, FailingDisk, failing_disk, fill_directory, fill_file
from living_machine import DAY, NOON, LivingMachine
from machine_tree import MachineTree
from tree_content import tree

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

UID = 4242
FSTYPES = ("ext4", "btrfs")
CAUSE = os.strerror(errno.EIO)
STORE = "/persistent"

CHANGES = frozenset((
    "mkdir", "rename", "link", "symlink", "unlink", "rmdir", "fchown", "fchmod", "setxattr",
    "utime", "sendfile", "ftruncate", "ioctl", "fsync", "write",
))  # fmt: skip
"""The functions before which the disk may stop accepting writes; ``syncfs`` and `rename` too."""


@contextmanager
def last_write(disk: FailingDisk, at: int) -> Iterator[list[int]]:
    """*disk* refuses all writes from change number *at*; -1 for all writes. The yielded list has
    one element, the number of changes.
    """
    count = [0]

    def watch(frame: FrameType, event: str, argument: object) -> None:
        name = ""
        if event == "c_call":
            name = getattr(argument, "__name__", "")
            if isinstance(getattr(argument, "__self__", None), io.TextIOBase):
                name = ""  # a message is not on the disk
        elif event == "call" and frame.f_code.co_name in ("sync", "rename"):
            name = "fsync" if "ephemeroot" in frame.f_code.co_filename else ""
        if name in CHANGES:
            if count[0] == at:
                disk.refuse_writes()
            count[0] += 1

    sys.setprofile(watch)
    try:
        yield count
    finally:
        sys.setprofile(None)


def at_each_change(run: Callable[[int], int], sample: int) -> None:
    """Execute *run* with a sound disk, to count its changes, then with a disk that
    fails before each of them, or before *sample* of them.
    """
    count = run(-1)
    assert count > sample
    chosen = proof.sample(range(count), sample)
    for at in chosen:
        run(at)
    proof.record("disk that fails before a change", len(chosen))


# A store whose disk stops accepting writes


@pytest.mark.parametrize("kind", ["directory", "bind"])
@pytest.mark.parametrize("fstype", FSTYPES)
def test_seeded_files_are_on_the_disk_or_the_root_is_kept(
    tmp_path: Path, fstype: str, kind: str
) -> None:
    def run(at: int) -> int:
        folder = tmp_path / str(at)
        for name in ("store", "previous/home", "run", "target"):
            (folder / name).mkdir(parents=True)
        content(folder / "previous/home/mine", kind)
        with failing_disk(fstype) as disk:
            with disk.mounted(folder / "store"), last_write(disk, at) as count:
                answer = seeding_driver.hand_over(str(folder), "mine", kind, UID)
            with disk.held(folder / "held") as held:
                judge(held / "home/mine", folder / "previous/home/mine",
                      claimed=not answer["refused"])  # fmt: skip
        assert bool(answer["refused"]) == (at >= 0)
        if answer["refused"]:
            assert "/home" in str(answer["refused"]) or STORE in str(answer["refused"])
            assert CAUSE in str(answer["refused"]) or "read-only" in str(answer["refused"])
        assert answer["left-out"] == []
        assert not answer["marked"]
        return count[0]

    at_each_change(run, 2)


@pytest.mark.parametrize("fstype", FSTYPES)
def test_adopted_files_are_on_the_disk_or_the_store_lacks_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fstype: str
) -> None:
    def run(at: int) -> int:
        folder = tmp_path / str(at)
        (folder / "persistent").mkdir(parents=True)
        with failing_disk(fstype) as disk:
            with disk.mounted(folder / "persistent"):
                MachineTree(folder)
                content(folder / "srv/app", "directory")
                subprocess.run(["sync", "-f", folder / "persistent"], check=True)
                before = tree(folder / "srv/app")
                with last_write(disk, at) as count:
                    code = cli.main(["adopt", "--root", str(folder), "/srv/app"])
            said = capsys.readouterr()
            assert tree(folder / "srv/app") == before
            with disk.held(folder / "held") as held:
                judge(held / "srv/app", folder / "srv/app", claimed=code == 0)
        assert code in (0, 1)
        assert (code == 0) == (at < 0), said
        return count[0]

    at_each_change(run, 2)


@pytest.mark.parametrize("fstype", FSTYPES)
def test_files_copied_back_are_on_the_disk_or_named(tmp_path: Path, fstype: str) -> None:
    names = ("etc/a", "etc/b")

    def run(at: int) -> int:
        folder = tmp_path / str(at)
        for name in names:
            path = folder / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("new\n" * 3000)
        with failing_disk(fstype) as disk:
            with disk.mounted(folder / "store") as store:
                for name in names:
                    (store / name).parent.mkdir(exist_ok=True)
                    (store / name).write_text("old\n" * 3000)
                subprocess.run(["sync", "-f", store], check=True)
                with last_write(disk, at) as count:
                    back = copy_back(folder / "root", store, names)
            with disk.held(folder / "held") as held:
                found = {(held / name).read_text()[:4] for name in names}
                assert len({len((held / name).read_text()) for name in names}) == 1
        assert found <= {"old\n", "new\n"}
        assert at >= 0 or back.copied == ["/etc/a", "/etc/b"]
        if back.copied:
            assert found == {"new\n"}
        else:
            assert back.problems
            assert "/etc/a" in back.problems[0]
            assert back.refused is not None
        return count[0]

    at_each_change(run, 2)


def copy_back(root: Path, store: Path, names: tuple[str, ...]) -> CopyBack:
    files = [{"path": f"/{name}", "store": STORE, "source": name} for name in names]
    opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (root, store)]
    try:
        back = CopyBack(files, {STORE: opened[1]}, opened[0], 1 << 20)
        back.run()
    finally:
        for fd in opened:
            os.close(fd)
    return back


def content(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "bind":
        fill_file(path, readable=True)
    else:
        (path / "inner").mkdir(parents=True)
        for name in ("one", "inner/two"):
            fill_file(path / name, readable=True)
            os.setxattr(path / name, "user.origin", b"here")
        (path / "link").symlink_to("one")
    subprocess.run(["chown", "-hR", f"{UID}:{UID}", path], check=True)


def judge(stored: Path, source: Path, *, claimed: bool) -> None:
    """Either all of it or nothing is on the disk, and all of it if the run *claimed* that."""
    if claimed or os.path.lexists(stored):
        assert tree(stored) == tree(source)


# Content that cannot be read

PLACES = ("file", "inner file", "inner directory", "directory")


def spoil(path: Path, place: str) -> list[str]:
    """Create *path*, with a part that `FailingDisk.damage` makes unreadable; return the names of
    that part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if place == "file":
        fill_file(path)
        return [""]
    if place == "directory":
        fill_directory(path)
        return [""]
    (path / "deep").mkdir(parents=True)
    for number in range(5):
        fill_file(path / f"good{number}", readable=True)
    fill_file(path / "deep/good", readable=True)
    if place == "inner file":
        fill_file(path / "deep/bad")
        return ["deep/bad"]
    fill_directory(path / "deep/bad")
    return ["deep/bad"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("user", [0, UID], ids=["root", "user"])
def test_the_root_is_kept_when_its_disk_cannot_be_read(
    tmp_path: Path, place: str, user: int
) -> None:
    for name in ("store", "run", "target"):
        (tmp_path / name).mkdir()
    with failing_disk("btrfs") as disk:
        with disk.mounted(tmp_path / "previous") as previous:
            spoil(previous / "home/mine", place)
            if user:
                subprocess.run(["chown", "-R", f"{user}:{user}", previous / "home"], check=True)
        disk.damage(UNREADABLE)
        with disk.mounted(tmp_path / "previous"):
            kind = "bind" if place == "file" else "directory"
            answer = seeding_driver.hand_over(str(tmp_path), "mine", kind, user)
    assert "/home/mine" in str(answer["refused"])
    assert CAUSE in str(answer["refused"])
    assert answer["left-out"] == []
    assert not (tmp_path / "store/home/mine").exists()


@pytest.mark.parametrize("place", PLACES)
def test_adopt_names_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    with failing_disk("btrfs") as disk:
        with disk.mounted(tmp_path / "machine") as root:
            MachineTree(root)
            bad = spoil(root / "srv/app", place)
        disk.damage(UNREADABLE)
        with disk.mounted(tmp_path / "machine") as root:
            subprocess.run(["mount", "-t", "tmpfs", "none", root / "persistent"], check=True)
            MachineTree(root, None)
            code = cli.main(["adopt", "--root", str(root), "/srv/app"])
            said = capsys.readouterr()
            whole = bad == [""]
            assert code == (1 if whole else 10)
            assert CAUSE in said.err
            assert "/".join(["/srv/app", *bad]).rstrip("/") in said.err
            stored = root / "persistent/srv/app"
            assert os.path.lexists(stored) != whole
            if not whole:
                assert sorted(p.name for p in stored.iterdir())[-5:] == [
                    f"good{n}" for n in range(5)
                ]
            drop = root / "etc/ephemeroot/conf.d/adopted.toml"
            assert drop.exists() != whole


@pytest.mark.parametrize("place", PLACES)
def test_restore_names_what_it_cannot_read(tmp_path: Path, place: str) -> None:
    """The blocks of files are shared with the old root and not read: the restored file is as
    unreadable as the old one.
    """
    (tmp_path / "private").mkdir()
    with failing_disk("btrfs") as disk:
        with disk.mounted(tmp_path / "top", "subvolid=5") as top:
            shown = Disk(str(disk.path), top, tmp_path / "private")
            machine = LivingMachine(shown, tmp_path / "machine")
            machine.boot()
            (bad,) = spoil(machine.root / "opt/app", place)
            fill_file(machine.root / "opt/other", readable=True)
            machine.boot(NOON + DAY)
            machine.shut_down()
        disk.damage(UNREADABLE)
        with (
            disk.mounted(tmp_path / "top", "subvolid=5"),
            disk.mounted(machine.root, "subvol=root"),
        ):
            machine.mount("subvol=store", machine.root / "persistent")
            (old,) = machine.old()
            done = machine.call("roots", "restore", "--from", old, "/opt/app", "/opt/other")
            assert (machine.root / "opt/other").stat().st_size == 16384
            restored = machine.root / "opt/app"
            if "inner" in place:
                assert len(list(restored.glob("good*"))) == 5
            if "file" in place:
                assert done.returncode == 0
                with pytest.raises(OSError, match=CAUSE):
                    (restored / bad).read_bytes()
                return
            assert done.returncode == 10
            assert CAUSE in done.stderr
            assert f"/opt/app/{bad}".rstrip("/") in done.stderr
            assert not os.path.lexists(restored / bad)


@pytest.mark.parametrize("where", ["root", "store"])
def test_copying_back_names_what_it_cannot_read(tmp_path: Path, where: str) -> None:
    names = ("etc/bad", "etc/good")
    with failing_disk("btrfs") as disk:
        with disk.mounted(tmp_path / where) as failing:
            (failing / "etc").mkdir()
            fill_file(failing / "etc/bad")
            fill_file(failing / "etc/good", readable=True)
        disk.damage(UNREADABLE)
        other = tmp_path / ("store" if where == "root" else "root")
        (other / "etc").mkdir(parents=True)
        for name in names:
            (other / name).write_text("o" * 16384)
        with disk.mounted(tmp_path / where):
            back = copy_back(tmp_path / "root", tmp_path / "store", names)
            assert back.copied == ["/etc/good"]
            (problem,) = back.problems
            assert "/etc/bad" in problem
            assert CAUSE in problem
            assert back.refused is not None
            if where == "root":
                assert (other / "etc/bad").read_text() == "o" * 16384
