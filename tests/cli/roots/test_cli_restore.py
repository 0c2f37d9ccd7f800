"""``ephemeroot roots show``, ``mount`` and ``restore``: the program itself, on a real btrfs."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import btrfsutil
import pytest

from living_machine import DAY, NOON, LivingMachine, living_machine
from programs import PROGRAM

pytestmark = [
    pytest.mark.requires_loop,
    *(pytest.mark.requires_program(name) for name in ("setfacl", "filefrag")),
]

FIRST = "2026-11-24T12-00-00Z.keep"
STEM = "2026-11-24T12-00-00Z"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    """A machine with an old root that has a few files which the present root lacks."""
    with living_machine(tmp_path) as made:
        made.boot()
        root = made.root
        (root / "etc/lost").write_text("lost\n")
        (root / "etc/lost").chmod(0o640)
        os.chown(root / "etc/lost", 7, 8)
        os.setxattr(root / "etc/lost", "user.note", b"x")
        subprocess.run(["setfacl", "-m", "u:9:r", root / "etc/lost"], check=True)
        (root / "etc/hostname").write_text("old\n")
        (root / "opt/app/data").mkdir(parents=True)
        os.chown(root / "opt/app", 5, 6)
        (root / "opt/app/data/one").write_bytes(b"x" * 100_000)
        os.link(root / "opt/app/data/one", root / "opt/app/data/same")
        (root / "opt/app/link").symlink_to("/etc/shadow")
        os.mkfifo(root / "opt/app/fifo")
        made.boot(NOON + DAY)
        yield made


def temporary(root: Path) -> list[str]:
    return [n for _, d, f in os.walk(root) for n in (*d, *f) if "ephemeroot-restoring" in n]


def test_shows_facts_of_an_old_root(machine: LivingMachine) -> None:
    content = machine.json("roots", "show", STEM)
    assert (content["format"], content["version"]) == ("ephemeroot-roots-show", 1)
    assert (content["name"], content["path"]) == (FIRST, f"old_roots/{FIRST}")
    assert content["keep"]
    assert content["boot-complete"]
    assert content["state"] == "boot-complete"
    assert content["retired"] == NOON + DAY
    assert abs(content["made"] - time.time()) < 600
    assert content["size"] is None
    shown = machine.call("roots", "show", FIRST).stdout
    assert "quotas are off" in shown
    assert "never pruned      yes" in shown
    subprocess.run(["btrfs", "quota", "enable", machine.disk.top], check=True)
    subprocess.run(["btrfs", "quota", "rescan", "-w", machine.disk.top], check=True)
    content = machine.json("roots", "show", FIRST)
    assert content["size"] >= content["exclusive"] >= 100_000
    assert machine.call("roots", "show", "2020-01-01T00-00-00Z").returncode == 2


def test_mounts_an_old_root_read_only(machine: LivingMachine, tmp_path: Path) -> None:
    where = tmp_path / "old root"
    where.mkdir()
    dry = machine.call("roots", "mount", STEM, where, "--dry-run")
    assert dry.stdout.endswith("not done: dry run\n")
    assert not os.path.ismount(where)
    done = machine.call("roots", "mount", STEM, where)
    assert done.returncode == 0, done.stderr
    assert (where / "etc/lost").read_text() == "lost\n"
    with pytest.raises(OSError, match="Read-only"):
        (where / "etc/lost").write_text("x")
    refused = machine.call("roots", "mount", STEM, where)
    assert refused.returncode == 2
    assert "is not empty" in refused.stderr
    assert machine.call("roots", "unkeep", STEM).returncode == 0
    deletion = machine.call("roots", "delete", STEM, "--yes")
    assert deletion.returncode == 1
    assert "is mounted" in deletion.stderr
    subprocess.run(["umount", where], check=True)
    assert machine.call("roots", "mount", "2020-01-01T00-00-00Z", where).returncode == 2
    assert machine.call("roots", "mount", STEM, where / "none").returncode == 2
    assert machine.call("roots", "delete", STEM, "--yes").returncode == 0
    points = Path("/proc/self/mountinfo").read_text()
    assert str(where) not in points


def test_restores_a_name_of_maximum_length(machine: LivingMachine) -> None:
    name = "\u5bbf" * 85
    (machine.root / "etc" / name).write_text("x")
    machine.boot(NOON + 2 * DAY)
    assert not (machine.root / "etc" / name).exists()
    newest = machine.json("roots", "list")["histories"][0]["entries"][-1]["name"]
    done = machine.call("roots", "restore", f"/etc/{name}", "--from", newest)
    assert done.returncode == 0, done.stderr
    assert (machine.root / "etc" / name).read_text() == "x"


def test_mount_prints_json(machine: LivingMachine, tmp_path: Path) -> None:
    where = tmp_path / "old root"
    where.mkdir()
    words = ("roots", "mount", STEM, str(where))
    for more, mounted in ((("--dry-run",), False), ((), True)):
        content = machine.json(*words, *more)
        assert (content["format"], content["version"]) == ("ephemeroot-roots-mount", 1)
        assert content["dry-run"] is not mounted
        assert os.path.ismount(where) is mounted
    subprocess.run(["umount", where], check=True)


def test_restores_a_file(machine: LivingMachine) -> None:
    dry = machine.call("roots", "restore", "/etc/lost", "--from", STEM, "--dry-run")
    assert dry.stdout == "restore /etc/lost: not done: dry run\n"
    lost = machine.root / "etc/lost"
    assert not lost.exists()
    done = machine.call("roots", "restore", "/etc/lost", "--from", STEM)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "restore /etc/lost\n"
    assert "does not persist" in done.stderr
    assert "ephemeroot adopt /etc/lost" in done.stderr
    status = lost.stat()
    assert lost.read_text() == "lost\n"
    assert (status.st_uid, status.st_gid) == (7, 8)
    old = machine.disk.top / "old_roots" / FIRST / "etc/lost"
    assert status.st_mode == old.stat().st_mode
    assert status.st_mtime_ns == old.stat().st_mtime_ns
    assert os.getxattr(lost, "user.note") == b"x"
    acl = subprocess.run(["getfacl", "-cn", lost], capture_output=True, text=True).stdout
    assert "user:9:r--" in acl
    again = machine.call("roots", "restore", "/etc/lost", "--from", STEM)
    assert (again.returncode, again.stdout) == (
        0,
        "nothing to restore: all files are identical\n",
    )


def test_restores_a_directory_and_its_parents(machine: LivingMachine) -> None:
    done = machine.call("roots", "restore", "/opt/app/data/", "/opt/app/link", "--from", STEM)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "restore the directory /opt",
        "restore the directory /opt/app",
        "restore /opt/app/data",
        "restore /opt/app/link",
    ]
    app = machine.root / "opt/app"
    assert (app.stat().st_uid, app.stat().st_gid) == (5, 6)
    assert (app / "data/one").read_bytes() == b"x" * 100_000
    assert (app / "data/one").stat().st_ino == (app / "data/same").stat().st_ino
    assert os.readlink(app / "link") == "/etc/shadow"
    assert not (app / "fifo").exists()
    extents = subprocess.run(
        ["filefrag", "-v", app / "data/one"], capture_output=True, text=True
    ).stdout
    assert "shared" in extents, "the content is shared with the old root"
    rest = machine.call("roots", "restore", "/opt", "--from", STEM)
    assert rest.stdout == "restore /opt/app/fifo\n"
    assert stat.S_ISFIFO((app / "fifo").lstat().st_mode)


def test_does_not_replace_existing_files(machine: LivingMachine) -> None:
    hostname = machine.root / "etc/hostname"
    hostname.write_text("newer\n")
    done = machine.call("roots", "restore", "/etc/hostname", "--from", STEM)
    assert done.returncode == 1
    assert "/etc/hostname is not restored: the present file is newer" in done.stderr
    assert "--overwrite" in done.stderr
    os.utime(hostname, (0, 0))
    done = machine.call("roots", "restore", "/etc", "--from", STEM, "--json")
    assert done.returncode == 10
    content = json.loads(done.stdout)
    assert content["changes"] == ["restore /etc/lost"]
    kept = [{"path": "/etc/hostname", "reason": "the present file differs"}]
    assert content["kept"] == kept
    assert hostname.read_text() == "newer\n"
    done = machine.call("roots", "restore", "/etc/hostname", "--from", STEM, "--overwrite")
    assert (done.returncode, done.stdout) == (0, "replace /etc/hostname by the old version\n")
    assert hostname.read_text() == "old\n"


def test_overwrite_refuses_to_exchange_a_directory_and_a_file(machine: LivingMachine) -> None:
    (machine.root / "etc/lost").mkdir()
    (machine.root / "etc/lost/precious").touch()
    (machine.root / "opt").write_text("a file")
    done = machine.call("roots", "restore", "/etc/lost", "--from", STEM, "--overwrite")
    assert done.returncode == 1
    assert "it is a directory now" in done.stderr
    assert (machine.root / "etc/lost/precious").exists()
    done = machine.call("roots", "restore", "/opt", "--from", STEM, "--overwrite")
    assert "it is not a directory now" in done.stderr
    done = machine.call("roots", "restore", "/opt/app/link", "--from", STEM)
    assert done.returncode == 1
    assert "/opt is not a directory" in done.stderr


def test_restores_into_another_directory(machine: LivingMachine, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    done = machine.call("roots", "restore", "/opt/app", "/etc/lost", "--from", STEM, "--to", there)
    assert done.returncode == 0, done.stderr
    assert f"restore {there}/app, which was /opt/app" in done.stdout
    assert sorted(os.listdir(there)) == ["app", "lost"]
    assert (there / "app/data/one").stat().st_size == 100_000
    assert not (machine.root / "opt").exists()
    twice = machine.call("roots", "restore", "/etc/lost", "/opt/../etc/lost", "--from", STEM,
                         "--to", tmp_path)  # fmt: skip
    assert twice.returncode == 2


def test_reports_persistent_paths(machine: LivingMachine) -> None:
    (machine.root / "var/log/current").touch()
    done = machine.call("roots", "restore", "/srv/data/kept/x", "--from", STEM)
    assert done.returncode == 2
    assert "/srv/data/kept persists: its content is in the store /persistent" in done.stderr
    # Below the bind of a persistent path the root has content of its own.
    old = machine.disk.top / "old_roots" / FIRST
    (old / "var/log/hidden").touch()
    done = machine.call("roots", "restore", "/var", "--from", STEM)
    assert done.stdout == "nothing to restore: all files are identical\n"
    done = machine.call("roots", "restore", "/var/log/hidden", "--from", STEM)
    assert done.returncode == 0
    assert "/var/log persists in /persistent: restored files survive the next boot" in done.stderr
    assert (machine.disk.top / "store/var/log/hidden").exists()


def test_restores_names_that_are_not_utf8(machine: LivingMachine) -> None:
    old = machine.disk.top / "old_roots" / FIRST
    name = os.fsdecode(b"etc/\xff\n*")
    (old / name).write_text("x")
    done = machine.call("roots", "restore", f"/{name}", "--from", STEM)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "restore /etc/\\xff\\n*\n"
    assert (machine.root / name).read_text() == "x"


def test_does_not_follow_a_users_link(machine: LivingMachine, tmp_path: Path) -> None:
    """Neither in the present root nor in the old one."""
    old = machine.disk.top / "old_roots" / FIRST
    (old / "home/u/docs").mkdir()
    (old / "home/u/docs/file").write_text("restored")
    outside = tmp_path / "outside"
    outside.mkdir()
    home = machine.root / "home/u"
    (home / "docs").symlink_to(outside)
    os.chown(home, 1000, 1000)
    os.chown(home / "docs", 1000, 1000, follow_symlinks=False)
    done = machine.call("roots", "restore", "/home/u/docs/file", "--from", STEM)
    assert done.returncode == 1, done.stdout
    assert os.listdir(outside) == []
    (home / "docs").unlink()
    os.chown(old / "home/u", 1000, 1000)
    (old / "home/u/docs").rename(old / "home/u/real")
    (old / "home/u/docs").symlink_to("/etc")
    os.chown(old / "home/u/docs", 1000, 1000, follow_symlinks=False)
    done = machine.call("roots", "restore", "/home/u/docs/hostname", "--from", STEM)
    assert done.returncode == 1
    assert not (home / "docs").exists()


def test_follows_a_link_of_the_system(machine: LivingMachine) -> None:
    """A merged /usr."""
    old = machine.disk.top / "old_roots" / FIRST
    (old / "usr/bin/extra").write_text("x")
    for root in (old, machine.root):
        (root / "bin").symlink_to("usr/bin")
    done = machine.call("roots", "restore", "/bin/extra", "--from", STEM)
    assert done.returncode == 0, done.stderr
    assert (machine.root / "usr/bin/extra").exists()


def test_shows_a_progress_bar_on_a_terminal(machine: LivingMachine, tmp_path: Path) -> None:
    other = tmp_path / "tmpfs"  # another filesystem: no data can be shared
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", other], check=True)
    try:
        old = machine.disk.top / "old_roots" / FIRST
        (old / "large").write_bytes(os.urandom(1 << 20) * 30)
        ours, theirs = pty.openpty()
        words = ["roots", "restore", "/large", "--from", STEM, "--to", str(other)]
        done = subprocess.run(
            [PROGRAM, "--root", machine.root, *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        seen = os.read(ours, 1 << 16).decode()
        os.close(ours)
        assert done.returncode == 0
        assert "restoring [" in seen
        assert "of 30.0 MiB" in seen
        assert (other / "large").stat().st_size == 30 << 20
    finally:
        subprocess.run(["umount", other], check=True)


def test_a_killed_restore_leaves_no_partial_file_and_a_second_run_completes(
    machine: LivingMachine, tmp_path: Path
) -> None:
    """It is killed while it copies."""
    old = machine.disk.top / "old_roots" / FIRST
    other = tmp_path / "small"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", other], check=True)
    try:
        (old / "tree").mkdir()
        for number in range(40):
            (old / f"tree/{number}").write_bytes(os.urandom(1 << 20))
        before = sorted(os.listdir(other))
        for sign in (signal.SIGINT, signal.SIGKILL):
            process = subprocess.Popen(
                [PROGRAM, "--root", machine.root, "roots", "restore", "/tree", "--from", STEM,
                 "--to", other], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while not temporary(other) and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(sign)
            process.wait()
            assert not (other / "tree").exists() or len(os.listdir(other / "tree")) == 40
            if sign == signal.SIGINT:
                assert temporary(other) == []
                assert sorted(os.listdir(other)) in (before, ["tree"])
        done = machine.call("roots", "restore", "/tree", "--from", STEM, "--to", other)
        assert done.returncode == 0, done.stderr
        assert len(os.listdir(other / "tree")) == 40
        assert temporary(other) == []
    finally:
        subprocess.run(["umount", "-l", other], check=True)


def test_reports_a_full_disk(machine: LivingMachine, tmp_path: Path) -> None:
    old = machine.disk.top / "old_roots" / FIRST
    other = tmp_path / "small"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", other], check=True)
    try:
        (old / "large").write_bytes(os.urandom(2 << 20))
        done = machine.call("roots", "restore", "/large", "/etc/lost", "--from", STEM,
                            "--to", other)  # fmt: skip
        assert done.returncode == 10
        assert "No space left" in done.stderr
        assert os.listdir(other) == ["lost"]
    finally:
        subprocess.run(["umount", other], check=True)


def test_restores_from_the_old_roots_of_a_volume(machine: LivingMachine) -> None:
    """The path decides which history is used."""
    done = machine.call("roots", "restore", "/nowhere", "--from", STEM, "--volume", "/home")
    assert done.returncode == 2
    assert "/home keeps no old roots" in done.stderr
    missing = machine.call("roots", "restore", "/nowhere", "--from", STEM)
    assert missing.returncode == 2
    assert "is not in the old root" in missing.stderr


def test_does_not_change_the_old_root(machine: LivingMachine) -> None:
    old = machine.disk.top / "old_roots" / FIRST
    machine.disk.sync()
    before = btrfsutil.subvolume_info(str(old)).ctransid
    machine.call("roots", "restore", "/opt", "/etc/lost", "--from", STEM)
    machine.call("roots", "show", STEM)
    machine.call("roots", "diff", STEM)
    machine.disk.sync()
    assert btrfsutil.subvolume_info(str(old)).ctransid == before
