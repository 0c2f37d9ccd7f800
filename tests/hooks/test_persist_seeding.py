"""The persistence stage where a store lacks a declared path: seeded, created, or reported."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boot import FSTYPES, STORE, Boot, copy, directory, file, overlay, owner_and_mode, parent
from btrfs_image import btrfsutil
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.linux import mountinfo, paths
from ephemeroot.linux.workshop import Workshop

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


@pytest.fixture(params=FSTYPES)
def boot(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Boot]:
    boot = Boot(tmp_path, request.param)
    yield boot
    boot.unmount()


def test_seeds_a_new_declaration_from_the_root(boot: Boot) -> None:
    source = boot.root("/opt/app")
    source.mkdir(parents=True)
    (source / "data").write_text("default")
    (source / "data").chmod(0o640)
    os.chown(source / "data", 12, 13)
    os.link(source / "data", source / "again")
    (source / "link").symlink_to("/etc/passwd")
    os.setxattr(source / "data", "trusted.note", b"x")
    boot.root("/opt/one").write_text("file")
    boot.persist(parent("/opt"), directory("/opt/app"), file("/opt/one"))
    stored = boot.root(STORE) / "opt/app"
    assert (stored / "data").read_text() == "default"
    assert owner_and_mode(stored / "data") == (12, 13, "0o640")
    assert (stored / "data").stat().st_ino == (stored / "again").stat().st_ino
    assert os.readlink(stored / "link") == "/etc/passwd"
    assert os.getxattr(stored / "data", "trusted.note") == b"x"
    assert (boot.root(STORE) / "opt/one").read_text() == "file"
    assert mountinfo.mounted_at(str(boot.root("/opt/one"))) is not None
    assert list((boot.root(STORE) / ".ephemeroot/seeding").iterdir()) == []


def test_a_seeded_file_gets_the_declared_attributes(boot: Boot) -> None:
    for name in ("a", "b", "c"):
        boot.root(f"/{name}").write_text(name)
        os.chown(boot.root(f"/{name}"), 5, 6)
    boot.persist(file("/a"), file("/b", user=7, mode=0o4700), file("/c", group=8))
    assert owner_and_mode(boot.root("/a")) == (5, 6, "0o644")
    assert owner_and_mode(boot.root("/b")) == (7, 6, "0o4700")
    assert owner_and_mode(boot.root("/c")) == (5, 8, "0o644")


def test_only_new_entries_get_a_label(boot: Boot) -> None:
    (boot.store / "old").mkdir()
    os.setxattr(boot.store / "old", "security.selinux", b"system_u:object_r:old_t:s0\0")
    label = "system_u:object_r:new_t:s0"
    boot.persist(
        parent("/p", label=label), directory("/p/new", label=label), directory("/old", label=label)
    )
    found = {
        path: os.getxattr(boot.root(path), "security.selinux").split(b":")[2]
        for path in ("/p", "/p/new", "/old")
    }
    assert found == {"/p": b"new_t", "/p/new": b"new_t", "/old": b"old_t"}


def test_initial_empty_seeds_nothing(boot: Boot) -> None:
    boot.root("/opt").mkdir()
    boot.root("/opt/default").write_text("")
    boot.root("/one").write_text("mine")
    boot.persist(directory("/opt", initial="empty"), file("/one", initial="empty"))
    assert list((boot.root(STORE) / "opt").iterdir()) == []
    assert not (boot.root(STORE) / "one").exists()


def test_seeds_into_a_subvolume_inside_the_store(tmp_path: Path) -> None:
    """A rename from one subvolume to another fails with EXDEV."""
    boot = Boot(tmp_path, "btrfs")
    for name in ("srv", "eve"):
        btrfsutil.create_subvolume(str(boot.store / name))
        boot.root(f"/{name}/full").mkdir(parents=True)
        (boot.root(f"/{name}/full") / "file").write_text("content")
    for path in (boot.store / "eve", boot.root("/eve")):
        os.chown(path, 4242, 4242)
    boot.persist(
        parent("/srv"), directory("/srv/full"), directory("/srv/new", mode=0o711),
        parent("/eve"), directory("/eve/full"), directory("/eve/new", user=4242),
    )  # fmt: skip
    stored = boot.root(STORE)
    assert (stored / "srv/full/file").read_text() == "content"
    assert owner_and_mode(boot.root("/srv/new")) == (0, 0, "0o711")
    assert owner_and_mode(boot.root("/eve/new"))[0] == 4242
    assert (stored / "eve/full/file").read_text() == "content"
    assert boot.problems() == []
    for name in ("srv", "eve"):
        assert sorted(os.listdir(stored / name)) == ["full", "new"]
        assert boot.root(f"/{name}/full").is_mount()
    assert os.listdir(stored / ".ephemeroot/seeding") == []
    boot.unmount()


@pytest.mark.parametrize("declared", [directory, file, copy], ids=["directory", "bind", "copy"])
@pytest.mark.parametrize("owner", [0, 4242], ids=["root", "user"])
def test_completes_an_interrupted_seeding_into_a_subvolume(
    tmp_path: Path, declared: Callable[..., Operation], owner: int
) -> None:
    """The power fails before the last step: the next boot removes the incomplete copy, and seeds
    the path.
    """
    boot = Boot(tmp_path, "btrfs")
    btrfsutil.create_subvolume(str(boot.store / "home"))
    boot.root("/home").mkdir()
    path = boot.root("/home/mine")
    if declared is directory:
        path.mkdir()
        (path / "file").write_text("content")
    else:
        path.write_text("content")
    for one in (boot.store / "home", boot.root("/home"), path):
        os.chown(one, owner, owner)
    operations = (parent("/home"), declared("/home/mine"))
    pid = os.fork()
    if pid == 0:
        Workshop.deliver = lambda *_: os._exit(7)  # type: ignore[method-assign]
        boot.persist(*operations)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    (left,) = os.listdir(boot.root(STORE) / "home")
    assert os.stat(boot.root(STORE) / "home" / left).st_mode & 0o777 == 0o700
    boot.next_boot(wiped=False)
    boot.persist(*operations)
    stored = boot.root(STORE) / "home"
    assert os.listdir(stored) == ["mine"]
    content = stored / "mine/file" if declared is directory else stored / "mine"
    assert content.read_text() == "content"
    assert os.stat(stored / "mine").st_uid == owner
    assert os.listdir(boot.root(STORE) / ".ephemeroot/seeding") == []
    boot.unmount()


def test_paths_created_by_a_boot_are_not_a_source_for_seeding(boot: Boot) -> None:
    boot.persist(directory("/gone"), file("/link"), parent("/p"))
    subprocess.run(["umount", boot.root("/gone")], check=True)
    subprocess.run(["mount", "--bind", boot.root(STORE), boot.store], check=True)
    boot.root("/gone/stray").write_text("written to the placeholder")
    (boot.store / "gone").rmdir()
    boot.persist(directory("/gone"))
    assert list((boot.root(STORE) / "gone").iterdir()) == []
    assert boot.results()[-1].startswith("created and bound")


def test_refuses_to_seed_more_than_the_limit_and_leaves_nothing(boot: Boot) -> None:
    boot.root("/big").mkdir()
    (boot.root("/big") / "file").write_bytes(b"x" * 4096)
    boot.persist(directory("/big"), seed_limit=4095)
    assert "adopt /big" in (boot.run / "boot.json").read_text()
    assert not (boot.root(STORE) / "big").exists()
    assert list((boot.root(STORE) / ".ephemeroot/seeding").iterdir()) == []
    assert (boot.root("/big") / "file").exists()


def test_refuses_to_seed_into_a_full_store_and_loses_nothing(boot: Boot) -> None:
    (boot.store / "have").mkdir()
    (boot.store / "etc").mkdir()
    (boot.store / "etc/kept").write_text("kept")
    boot.fill(boot.store)
    boot.root("/big").mkdir()
    content = os.urandom(1 << 18)
    (boot.root("/big") / "file").write_bytes(content)
    boot.persist(directory("/big"), parent("/etc"), file("/etc/kept"), directory("/have"))
    assert "has no space for /big" in boot.results()[1]
    assert any("/big" in problem and STORE in problem for problem in boot.problems())
    assert (boot.root("/big") / "file").read_bytes() == content
    assert not (boot.root(STORE) / "big").exists()
    assert boot.root("/etc/kept").read_text() == "kept"
    assert boot.root("/have").is_mount()
    for ballast in boot.root(STORE).glob("ballast*"):
        ballast.unlink()
    boot.next_boot(wiped=False)
    boot.persist(directory("/big"))
    assert (boot.root(STORE) / "big/file").read_bytes() == content
    assert list((boot.root(STORE) / ".ephemeroot/seeding").iterdir()) == []


def test_a_store_without_any_room_does_not_stop_the_boot(boot: Boot) -> None:
    (boot.store / "have").mkdir()
    boot.fill(boot.store)
    boot.persist(
        parent("/new"), directory("/new/d"), overlay("/over"), copy("/etc/copied"),
        MachineId(store=STORE), directory("/have"),
    )  # fmt: skip
    assert boot.root("/have").is_mount()
    failed = [o for o in boot.operations() if o["result"].startswith("failed")]
    assert len(failed) == len(boot.problems())
    for result in failed:
        assert "No space left" in result["result"] or "No such file" in result["result"], result
    assert [n for n in os.listdir(boot.root(STORE)) if n.startswith(".ephemeroot-new")] == []


def test_a_full_root_still_boots(boot: Boot) -> None:
    for path in ("/data", "/etc", STORE):
        boot.root(path).mkdir()
    (boot.store / "data").mkdir()
    (boot.store / "etc").mkdir()
    (boot.store / "etc/one").write_bytes(os.urandom(1 << 16))
    boot.fill(boot.target)
    boot.persist(directory("/data"), copy("/etc/one"), *[directory(f"/n{i}") for i in range(40)])
    assert boot.root("/data").is_mount()
    assert "No space left" in boot.results()[2]
    assert list(boot.root("/etc").iterdir()) == []


@pytest.mark.requires_program("bindfs")
def test_a_store_whose_filesystem_does_not_support_rename_flags(boot: Boot) -> None:
    """On NFS, renameat2(2) with RENAME_NOREPLACE fails with EINVAL; here a FUSE filesystem does the
    same.
    """
    (boot.root("/etc")).mkdir()
    boot.root("/etc/seeded").write_text("from the root")
    boot.root("/srv/a").mkdir(parents=True)
    boot.root("/srv/a/note").write_text("from the root, too")
    subprocess.run(["bindfs", boot.store, boot.store], check=True)
    roots = boot.fstype
    names = [str(boot.store / name) for name in ("one", "two")]
    for name in names:
        Path(name).touch()
    with pytest.raises(OSError, match="Invalid argument"):
        paths.rename(-1, names[0], -1, names[1], flags=paths.RENAME_EXCHANGE)
    entries = (
        parent("/etc"), file("/etc/seeded"), parent("/srv"),
        directory("/srv/a", user=33, group=34, mode=0o2750, initial="fresh"),
        directory("/srv/b", user=33, group=34, mode=0o2750),
        copy("/etc/passwd"), MachineId(store=STORE, source="etc/machine-id"),
    )  # fmt: skip
    for _ in range(2):
        boot.fstype = "fuse"
        boot.persist(*entries)
        boot.fstype = roots
        assert boot.problems() == []
        assert owner_and_mode(boot.root("/srv/b")) == (33, 34, "0o2750")
        assert boot.root("/srv/a/note").read_text() == "from the root, too"
        assert boot.root("/etc/seeded").read_text() == "from the root"
        boot.next_boot()
    subprocess.run(["umount", "-R", "-l", boot.store], check=True)


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_renames_without_flags_never_replace_a_file(tmp_path: Path, kind: str) -> None:
    below, mounted = tmp_path / "below", tmp_path / "mounted"
    for folder in (below, mounted):
        folder.mkdir()
    subprocess.run(["bindfs", below, mounted], check=True)
    try:
        for name in ("new", "there"):
            if kind == "directory":
                (below / name).mkdir()
            elif kind == "file":
                (below / name).write_text(name)
            else:
                (below / name).symlink_to(name)
        fd = os.open(mounted, os.O_RDONLY)
        try:
            with pytest.raises(FileExistsError):
                paths.rename(fd, "new", fd, "there", flags=paths.RENAME_NOREPLACE)
            paths.rename(fd, "new", fd, "else", flags=paths.RENAME_NOREPLACE)
        finally:
            os.close(fd)
        assert sorted(os.listdir(below)) == ["else", "there"]
        if kind != "directory":
            read = os.readlink if kind == "link" else Path.read_text
            assert [read(below / name) for name in ("else", "there")] == ["new", "there"]
    finally:
        subprocess.run(["umount", mounted], check=True)
