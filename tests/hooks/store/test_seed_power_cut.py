"""Seeding and first copies, interrupted at any change: a name in the store never has partial
content.

A child process runs the real stage and dies right before its n-th change. Either only the process
dies and the disk has all its writes, or the power fails and the disk has only the content of the
image file at that instant. The next boot then completes the interrupted step.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cutting
import proof
from boot import Boot, copy, directory, file, parent
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.store.machine_id_file import read
from ephemeroot.linux import removal
from loop_device import mount

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

CHANGES = frozenset((
    "mkdir", "rename", "link", "symlink", "unlink", "rmdir", "fchown", "fchmod", "chown",
    "setxattr", "utime", "sendfile", "ftruncate", "ioctl", "fsync", "write",
))  # fmt: skip
DECLARED = ("srv", "etc/conf", "etc/passwd")
OPERATIONS = (
    parent("/etc"), directory("/srv"), file("/etc/conf"), copy("/etc/passwd"),
    MachineId(store="/persistent"),
)  # fmt: skip


def facts(path: Path) -> object:
    """Every property of the tree at *path* that a copy must preserve."""
    status = path.lstat()
    own = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return own, os.readlink(path)
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    if path.is_dir():
        return own, attributes, {name: facts(path / name) for name in sorted(os.listdir(path))}
    return own, attributes, status.st_nlink, path.read_bytes()


class Laboratory:
    """A store, and a root with content that the store lacks."""

    def __init__(self, base: Path, fstype: str) -> None:
        self.folder = base
        self.boot = Boot(base, fstype)
        self.copy = base / "copy"
        self.after = base / "after"
        self.after.mkdir()
        srv = self.boot.root("/srv")
        (srv / "below").mkdir(parents=True)
        (srv / "below").chmod(0o2750)
        (srv / "below/large").write_bytes(os.urandom(70_000))
        (srv / "small").write_text("small")
        os.chown(srv / "small", 12, 13)
        os.setxattr(srv / "small", "user.note", b"note")
        os.link(srv / "small", srv / "again")
        (srv / "link").symlink_to("small")
        self.boot.root("/etc").mkdir()
        self.boot.root("/etc/conf").write_text("conf")
        self.boot.root("/etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        self.wanted = {name: facts(self.boot.root(name)) for name in DECLARED}
        subprocess.run(["sync", "-f", self.boot.store], check=True)

    def judge(self, store: Path) -> int:
        """The number of declared paths in the store, each of which must be complete."""
        there = [name for name in DECLARED if os.path.lexists(store / name)]
        for name in there:
            assert facts(store / name) == self.wanted[name], name
        fd = os.open(store, os.O_RDONLY)
        try:
            identity = read(fd, "etc/machine-id")
        finally:
            os.close(fd)
        assert identity is not None or not (store / "etc/machine-id").exists()
        return len(there) + (identity is not None)

    def judge_the_end(self, store: Path) -> None:
        assert self.judge(store) == len(DECLARED) + 1
        for folder in (store, store / "etc", store / ".ephemeroot/seeding"):
            assert [n for n in os.listdir(folder) if "ephemeroot-new" in n] == []
        assert os.listdir(store / ".ephemeroot/seeding") == []

    def run(self, store: Path | None = None) -> None:
        """Run the stage, with the image *store* instead of the mounted one."""
        if store is not None:
            subprocess.run(["umount", self.boot.store], check=True)
            mount(store, self.boot.store)
        self.boot.persist(*OPERATIONS)
        assert self.boot.problems() == []

    def forget(self) -> None:
        store = os.open(self.boot.store, os.O_RDONLY)
        for name in ("srv", "etc", ".ephemeroot"):
            removal.remove(store, name)
        os.close(store)
        subprocess.run(["sync", "-f", self.boot.store], check=True)

    def take_the_disk(self) -> None:
        image = self.boot.images[self.boot.store]
        subprocess.run(["cp", "--sparse=always", image, self.copy], check=True)

    @contextmanager
    def survivor(self) -> Iterator[Path]:
        mount(self.copy, self.after)
        try:
            yield self.after
        finally:
            subprocess.run(["umount", self.after], check=True)


@pytest.fixture(params=["ext4", "btrfs"])
def laboratory(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    laboratory = Laboratory(tmp_path, request.param)
    yield laboratory
    laboratory.boot.unmount()


def test_a_kill_between_any_two_changes(laboratory: Laboratory) -> None:
    found = []
    for at in range(0, 1000, proof.stride(9)):
        if not cutting.run_and_cut(laboratory.run, CHANGES, at, own_mounts=laboratory.folder):
            break
        found.append(laboratory.judge(laboratory.boot.store))
        assert not cutting.run_and_cut(laboratory.run, CHANGES, 1000, own_mounts=laboratory.folder)
        laboratory.judge_the_end(laboratory.boot.store)
        laboratory.forget()
    assert found == sorted(found)
    assert len(set(found)) > 2
    proof.record("kill between two changes: seeding by a boot", len(found))


def test_a_power_cut_after_the_machine_id_was_made(laboratory: Laboratory) -> None:
    """Programs have already used it, and logs are stored under it, so it must not change."""
    laboratory.boot.persist(parent("/etc"), MachineId(store="/persistent"))
    laboratory.take_the_disk()
    seen = laboratory.boot.root("/etc/machine-id").read_text()
    # Never mount two filesystems with one UUID at the same time: the kernel may refuse the copy.
    subprocess.run(["umount", "-R", laboratory.boot.target], check=True)
    with laboratory.survivor() as store:
        assert (store / "etc/machine-id").read_text() == seen


def test_a_power_cut_between_any_two_changes(laboratory: Laboratory) -> None:
    found = []
    for at in range(0, 1000, proof.stride(15, 2)):
        done = laboratory.take_the_disk
        if not cutting.run_and_cut(laboratory.run, CHANGES, at, done, own_mounts=laboratory.folder):
            break
        with laboratory.survivor() as store:
            found.append(laboratory.judge(store))
        assert not cutting.run_and_cut(
            lambda: laboratory.run(laboratory.copy), CHANGES, 1000, own_mounts=laboratory.folder
        )
        with laboratory.survivor() as store:
            laboratory.judge_the_end(store)
        laboratory.forget()
    assert len(found) > proof.rounds(4, 30)
    assert max(found) > 1
    proof.record("power cut between two changes: seeding by a boot", len(found))
