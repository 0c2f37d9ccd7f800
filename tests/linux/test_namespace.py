"""The mount namespace of a verb: its content, its visibility, and its end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ephemeroot.errors import Refused
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.linux.namespace import POINT, Namespace

pytestmark = pytest.mark.requires_root

PYTHON = [sys.executable, "-P", "-c"]
ENTER = "from ephemeroot.linux.namespace import Namespace\n"


@pytest.fixture
def caller() -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the namespace of the caller."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount whose submounts propagate, as on a machine with systemd."""
    with mounted(tmp_path / "shared", "-t", "tmpfs", "none") as path:
        subprocess.run(["mount", "--make-shared", path], check=True)
        (path / "inner").mkdir()
        yield path


@contextmanager
def mounted(path: Path, *words: str | Path) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-R", path], check=True)


def points(process: int | str = "self") -> list[str]:
    text = Path(f"/proc/{process}/mountinfo").read_text()
    return [mount.point for mount in mountinfo.mounts(text)]


def test_only_this_process_sees_the_mount(caller: subprocess.Popen[bytes]) -> None:
    before = points()
    with Namespace() as private:
        path = private.directory()
        mounts.attach_at(mounts.create("tmpfs", "tmpfs", []), path)
        assert points().count(POINT) == 1
        assert path in points()
        assert points(caller.pid) == before
        # Other runs look there before they delete an old root.
        assert any(path in text for text in mountinfo.everywhere())
    assert points() == before
    assert not any(path in text for text in mountinfo.everywhere())


def test_the_mount_point_is_accessible_to_root_only_and_has_noexec() -> None:
    with Namespace() as private:
        first, second = private.directory(), private.directory()
        assert first != second
        for path in (POINT, first):
            status = os.stat(path)
            assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, 0)
        flags = os.statvfs(POINT).f_flag
        for flag in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC):
            assert flags & flag
    assert stat.S_IMODE(os.stat(POINT).st_mode) == 0o700
    assert os.listdir(POINT) == []


def test_mounts_of_the_machine_appear_and_disappear(
    caller: subprocess.Popen[bytes], shared: Path
) -> None:
    """Another process mounts an automount that the verb triggers."""
    elsewhere = ["nsenter", "--target", str(caller.pid), "--mount"]
    inner = str(shared / "inner")
    with Namespace():
        subprocess.run([*elsewhere, "mount", "-t", "tmpfs", "none", inner], check=True)
        assert inner in points()
        subprocess.run([*elsewhere, "umount", inner], check=True)
        assert inner not in points()


def test_no_mount_propagates_back(caller: subprocess.Popen[bytes], shared: Path) -> None:
    with Namespace():
        subprocess.run(["mount", "-t", "tmpfs", "none", shared / "inner"], check=True)
        assert str(shared / "inner") in points()
        assert str(shared / "inner") not in points(caller.pid)
    assert str(shared / "inner") not in points()


def test_a_recursive_bind_of_run_leaves_its_mounts_out(tmp_path: Path) -> None:
    """`base run` gives its command a copy of every mount."""
    with Namespace() as private:
        mounts.attach_at(mounts.create("tmpfs", "tmpfs", []), private.directory())
        subprocess.run(["mount", "--rbind", "/run", tmp_path], check=True)
        assert str(tmp_path) in points()
        assert not [p for p in points() if p.startswith(f"{tmp_path}/ephemeroot")]


def test_a_nested_namespace_has_its_own_mount_point() -> None:
    with Namespace() as outer:
        first = outer.directory()
        with Namespace() as inner:
            mounts.attach_at(mounts.create("tmpfs", "tmpfs", []), inner.directory())
            assert points().count(POINT) == 2
        assert points().count(POINT) == 1
        assert os.path.isdir(first)
        assert not os.path.ismount(first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_mounted_however_the_process_ends(number: int) -> None:
    code = ENTER + (
        "import sys, time\n"
        "from ephemeroot.linux import mounts\n"
        "with Namespace() as private:\n"
        "    path = private.directory()\n"
        "    mounts.attach_at(mounts.create('tmpfs', 'tmpfs', []), path)\n"
        "    print(path, flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen(
        [*PYTHON, code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        assert any(path in text for text in mountinfo.everywhere())
        process.send_signal(number)
        assert process.wait() != 0
    assert not any(path in text for text in mountinfo.everywhere())


def test_restores_the_working_directory_and_the_root(tmp_path: Path) -> None:
    """In a chroot, setns(2) alone would lead out of it."""
    with mounted(tmp_path / "root", "-t", "tmpfs", "none") as root:
        for name in ("usr", "proc", "run", "dev"):
            (root / name).mkdir()
            subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
        for name in ("bin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for folder in {Path(sys.prefix).parent, Path(os.__file__).parent}:
            place = root / str(folder).lstrip("/")
            if not place.exists():
                place.mkdir(parents=True)
                subprocess.run(["mount", "--bind", folder, place], check=True)
        (root / "work here").mkdir()
        code = ENTER + (
            "import os\n"
            "def where(): return os.stat('/').st_dev, os.stat('/').st_ino, os.getcwd()\n"
            "os.chdir('/work here')\n"
            "before = where()\n"
            "with Namespace(): pass\n"
            "assert where() == before, (where(), before)\n"
            "assert os.path.isdir('/work here')\n"
        )
        subprocess.run(["chroot", root, *PYTHON, code], check=True)


# Refusals.


def refused(setup: str, *, user: int = 0, code: str = "with Namespace(): pass") -> str:
    """The message of a refusal in a namespace that the shell commands *setup* prepared."""
    program = ENTER + (
        "from ephemeroot.errors import Refused\n"
        "try:\n"
        f"    {code}\n"
        "except Refused as error:\n"
        "    print(error)\n"
    )
    drop = f"setpriv --reuid={user} --regid={user} --clear-groups" if user else "exec"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{setup}\n{drop} "$@"',
         "sh", *PYTHON, program],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_hint_for_another_user_is_to_run_as_root(tmp_path: Path) -> None:
    assert "run the command as root" in refused("true", user=65534) or not os.access(
        sys.prefix, os.X_OK
    )


@pytest.mark.parametrize(
    ("setup", "message", "hint"),
    [
        ("mount -t tmpfs -o nr_inodes=1 none /run", "No space left on device", "df -i /run"),
        (
            "mount -t tmpfs none /run; ln -s /etc /run/ephemeroot.mounts",
            "Too many levels of symbolic links",
            "ls -ld",
        ),
        (
            "mount -t tmpfs none /run; touch /run/ephemeroot.mounts",
            "Not a directory",
            "ls -ld",
        ),
        ("mount -t tmpfs -o ro none /run", "Read-only file system", ""),
    ],
)
def test_refuses_without_a_mount_point(setup: str, message: str, hint: str) -> None:
    said = refused(setup)
    assert said.startswith(f"cannot mount at {POINT}: {message}")
    assert hint in said


def test_refuses_in_a_chroot_that_is_not_a_mount_point(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    (inner / "proc").mkdir(parents=True)
    code = f"import os; os.chroot({str(inner)!r}); Namespace().__enter__()"
    said = refused(f"mount --bind /proc {inner}/proc", code=code)
    assert said.startswith("cannot separate the mounts of a new namespace")
    assert "mount --bind DIR DIR" in said


def test_a_refusal_leaves_the_process_in_its_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28), POINT)

    before, here = points(), os.readlink("/proc/self/ns/mnt")
    with monkeypatch.context() as patch:
        patch.setattr(mounts, "attach", fail)
        with pytest.raises(Refused, match="cannot mount at"), Namespace():
            raise AssertionError("entered")
    assert (points(), os.readlink("/proc/self/ns/mnt")) == (before, here)
