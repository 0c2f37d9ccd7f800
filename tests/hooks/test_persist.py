"""The persistence stage on real mounts: in memory, on ext4 and on btrfs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boot import FSTYPES, STORE, Boot, copy, directory, file, overlay, parent
from btrfs_image import btrfsutil
from ephemeroot.errors import StoreMissing
from ephemeroot.hooks import persist
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.volumes import Attach
from ephemeroot.linux import mountinfo, paths
from ephemeroot.linux.workshop import Workshop

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(params=FSTYPES)
def boot(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Boot]:
    boot = Boot(tmp_path, request.param)
    yield boot
    boot.unmount()


def owner_and_mode(path: Path) -> tuple[int, int, str]:
    status = path.lstat()
    return status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))


def test_a_directory_is_created_with_its_owner_and_bound(boot: Boot) -> None:
    boot.persist(parent("/var"), directory("/var/colord", user=33, group=34, mode=0o2750))
    bound = boot.root("/var/colord")
    assert bound.is_mount()
    assert owner_and_mode(bound) == (33, 34, "0o2750")
    assert owner_and_mode(boot.root("/var")) == (0, 0, "0o755")
    (bound / "note").write_text("kept")
    assert (boot.root(STORE) / "var/colord/note").read_text() == "kept"
    assert boot.results()[-1] == "created and bound"


def test_what_the_store_says_wins_over_the_declaration(boot: Boot) -> None:
    (boot.store / "srv").mkdir(mode=0o700)
    os.chown(boot.store / "srv", 5, 6)
    boot.persist(directory("/srv", user=1, group=1, mode=0o777))
    assert owner_and_mode(boot.root("/srv")) == (5, 6, "0o700")


def test_parents_never_inherit_a_childs_mode(boot: Boot) -> None:
    boot.persist(parent("/a"), parent("/a/b"), directory("/a/b/c", mode=0o700))
    assert owner_and_mode(boot.root("/a/b")) == (0, 0, "0o755")
    assert owner_and_mode(boot.root(STORE) / "a/b") == (0, 0, "0o755")


def test_a_new_parent_takes_after_the_roots_unless_declared(boot: Boot) -> None:
    for name in ("private", "declared"):
        boot.root(f"/{name}").mkdir(mode=0o700)
    boot.persist(parent("/private"), parent("/declared", mode=0o711, explicit=True))
    assert owner_and_mode(boot.root("/private")) == (0, 0, "0o700")
    assert owner_and_mode(boot.root("/declared")) == (0, 0, "0o711")


def test_parents_follow_the_store_at_every_boot(boot: Boot) -> None:
    (boot.store / "opt").mkdir()
    os.chown(boot.store / "opt", 7, 8)
    (boot.store / "opt").chmod(0o710)
    subprocess.run(["setfacl", "-m", "u:9:rx", boot.store / "opt"], check=True)
    boot.root("/opt").mkdir()
    boot.persist(parent("/opt"))
    # With an ACL the group bits are its mask, acl(5).
    assert owner_and_mode(boot.root("/opt")) == (7, 8, "0o750")
    acl = subprocess.run(
        ["getfacl", "-cnp", boot.root("/opt")], capture_output=True, text=True, check=True
    )
    assert "user:9:r-x" in acl.stdout


def test_a_file_is_bound_if_the_store_has_it_and_linked_otherwise(boot: Boot) -> None:
    (boot.store / "etc").mkdir()
    (boot.store / "etc/there").write_text("content")
    boot.persist(parent("/etc"), file("/etc/there"), file("/etc/absent"))
    assert mountinfo.mounted_at(str(boot.root("/etc/there"))) is not None
    assert boot.root("/etc/there").read_text() == "content"
    assert os.readlink(boot.root("/etc/absent")) == "/persistent/etc/absent"
    assert not (boot.root(STORE) / "etc/absent").exists()
    assert boot.results()[-2:] == ["bound", "linked"]


def test_a_link_that_persists_in_a_directory(boot: Boot) -> None:
    """Made at a boot when there was no such file; since then somebody wrote through it."""
    for folder in ("d", "elsewhere"):
        (boot.store / folder).mkdir()
    (boot.store / "d/other").symlink_to("/etc/passwd")

    names = ("auto", "bind", "other")
    boot.persist(
        directory("/d"),
        *[File(path=f"/d/{name}", store=STORE, source=f"elsewhere/{name}") for name in names],
    )
    assert boot.results()[2:4] == ["linked"] * 2
    for name in names:
        (boot.root(STORE) / "elsewhere" / name).write_text(name)
    boot.next_boot()
    boot.persist(
        directory("/d"),
        File(path="/d/auto", store=STORE, source="elsewhere/auto"),
        File(path="/d/bind", store=STORE, source="elsewhere/bind", method="bind"),
        File(path="/d/other", store=STORE, source="elsewhere/other"),
    )
    assert boot.results()[2:4] == ["already linked", "bound"]
    assert "symbolic link" in boot.results()[4]
    assert os.readlink(boot.root("/d/auto")) == f"{STORE}/elsewhere/auto"
    assert boot.root("/d/bind").read_text() == "bind"
    assert mountinfo.mounted_at(str(boot.root("/d/bind"))) is not None
    assert os.readlink(boot.root("/d/other")) == "/etc/passwd"


def test_bind_and_symlink_can_be_insisted_on(boot: Boot) -> None:
    (boot.store / "a").write_text("a")
    result = boot.persist(file("/a", method="symlink"), file("/b", method="bind"))
    assert os.readlink(boot.root("/a")) == "/persistent/a"
    assert not boot.root("/b").exists()
    assert result == "2 of 3 operations done"


def test_what_a_bind_hides_is_reported_and_not_destroyed(boot: Boot) -> None:
    boot.root("/data").mkdir()
    boot.root("/data/old").write_text("hidden")
    (boot.store / "data").mkdir()
    boot.persist(directory("/data"))
    assert boot.results()[-1] == "bound, hiding 1 entry of the root"
    subprocess.run(["umount", boot.root("/data")], check=True)
    assert boot.root("/data/old").read_text() == "hidden"


def test_a_crowd_that_is_hidden_is_not_counted_to_the_end(boot: Boot) -> None:
    boot.root("/data").mkdir()
    for number in range(1100):
        (boot.root("/data") / str(number)).touch()
    (boot.store / "data").mkdir()
    boot.persist(directory("/data"))
    assert boot.results()[-1] == "bound, hiding 1000 entries or more of the root"


def test_something_in_the_way_of_a_link_is_not_replaced(boot: Boot) -> None:
    boot.root("/conf").write_text("mine")
    boot.persist(file("/conf", initial="empty"))
    assert boot.root("/conf").read_text() == "mine"
    assert "not replaced" in boot.results()[-1]


def test_options_of_a_bind(boot: Boot) -> None:
    boot.persist(directory("/x", options=["noexec", "nosuid", "ro"]))
    with pytest.raises(OSError, match="Read-only"):
        (boot.root("/x") / "f").write_text("")
    flags = os.statvfs(boot.root("/x")).f_flag
    assert flags & os.ST_NOEXEC
    assert flags & os.ST_NOSUID
    assert not os.statvfs(boot.root(STORE)).f_flag & os.ST_RDONLY


def test_odd_names(boot: Boot) -> None:
    names = ["/with blank", "/new\nline", "/-dash", "/sta*r", "/ünï", "/back\\slash", "/\\040"]
    result = boot.persist(*[directory(name) for name in names], Hide(paths=names))
    assert all(boot.root(name).is_mount() for name in names)
    assert result == "9 of 9 operations done"
    assert boot.results()[-1] == f"marked {len(names)}"


@pytest.mark.parametrize("where", ["on the way", "at the path"])
def test_a_link_that_the_plan_does_not_know_is_an_error_for_that_path(
    boot: Boot, where: str
) -> None:
    """`check` resolves paths: here another root was planned for."""
    boot.root("/top/data/thing").mkdir(parents=True)
    boot.root("/top/srv").mkdir()
    if where == "on the way":
        boot.root("/top/srv").rmdir()
        boot.root("/top/srv").symlink_to("data")
    else:
        boot.root("/top/srv/thing").symlink_to("../data/thing")
    boot.persist(parent("/top"), directory("/top/srv/thing"), directory("/after"))
    assert "/top/srv/thing is a link to /top/data/thing in this root" in boot.results()[-2]
    assert not boot.root("/top/data/thing").is_mount()
    assert boot.root("/after").is_mount()


def test_a_users_link_in_the_root_is_not_followed(boot: Boot) -> None:
    boot.root("/home").mkdir()
    boot.root("/etc").mkdir()
    boot.root("/home/eve").mkdir()
    os.chown(boot.root("/home/eve"), 1000, 1000)
    boot.root("/home/eve/.config").symlink_to("/etc")
    os.lchown(boot.root("/home/eve/.config"), 1000, 1000)
    (boot.store / "home/eve/.config/x").mkdir(parents=True)
    boot.persist(directory("/home/eve/.config/x"), directory("/after"))
    assert list(boot.root("/etc").iterdir()) == []
    assert boot.root("/after").is_mount()


@pytest.mark.parametrize("shape", ["symlink", "fifo", "device", "file"])
def test_wrong_shapes_in_the_store_stop_nothing(boot: Boot, shape: str) -> None:
    victim = boot.root("/victim")
    victim.mkdir()
    place = boot.store / "declared"
    if shape == "symlink":
        place.symlink_to(victim)
    elif shape == "fifo":
        os.mkfifo(place)
    elif shape == "device":
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        place.write_text("")
    boot.persist(directory("/declared"), file("/declared/below"), directory("/after"))
    assert list(victim.iterdir()) == []
    assert boot.root("/after").is_mount()
    assert [r.startswith("failed") for r in boot.results()[-3:]] == [True, True, False]


def test_a_required_path_that_fails_stops_the_boot(boot: Boot) -> None:
    (boot.store / "must").write_text("no directory")
    with pytest.raises(persist.PathFailed, match="/must is required"):
        boot.persist(directory("/must", required=True))


def test_a_required_machine_id(boot: Boot) -> None:
    subprocess.run(["mount", "-o", "remount,ro", boot.store], check=True)
    with pytest.raises(persist.PathFailed, match="/etc/machine-id is required"):
        boot.persist(MachineId(store=STORE, required=True))


def test_the_policy_for_paths(boot: Boot) -> None:
    (boot.store / "may").write_text("no directory")
    with pytest.raises(persist.PathFailed, match="1 declared paths"):
        boot.persist(directory("/may"), policy="emergency")


def test_a_read_only_root_keeps_its_other_options(boot: Boot) -> None:
    """Those of rootflags=, which no line of /etc/fstab need repeat."""
    ours = {"nosuid", "nodev", "noexec", "nodiratime", "noatime"}
    remount = f"remount,ro,lazytime,{','.join(ours)}"
    subprocess.run(["mount", "-o", remount, boot.target], check=True)
    before = mountinfo.mounted_at(str(boot.target))
    boot.persist(directory("/made"))
    after = mountinfo.mounted_at(str(boot.target))
    assert before is not None
    assert after is not None
    assert "lazytime" in before.super_options
    assert ours <= set(before.options)
    assert set(after.options) == set(before.options)
    assert set(after.super_options) - {"rw"} == set(before.super_options) - {"ro"}


def test_a_read_only_root_is_written_to_and_read_only_again(boot: Boot) -> None:
    subprocess.run(["mount", "-o", "remount,ro", boot.target], check=True)
    boot.persist(directory("/made"))
    assert boot.root("/made").is_mount()
    assert os.statvfs(boot.target).f_flag & os.ST_RDONLY
    (boot.root("/made") / "file").write_text("the store is writable")


def test_the_store_must_be_the_one_that_was_declared(boot: Boot) -> None:
    (boot.store / ".ephemeroot-store").write_text(json.dumps({"id": "other"}))
    with pytest.raises(StoreMissing, match="another store"):
        boot.persist(directory("/x"))
    (boot.store / ".ephemeroot-store").unlink()
    with pytest.raises(StoreMissing, match=r"\.ephemeroot-store is missing"):
        boot.persist(directory("/x"))
    (boot.store / ".ephemeroot-store").write_text("{")
    with pytest.raises(StoreMissing, match="damaged"):
        boot.persist(directory("/x"))
    assert not boot.root("/x").exists()


def test_persist_no_binds_nothing(boot: Boot) -> None:
    boot.persist(directory("/x"), cmdline="ephemeroot.persist=no")
    assert not boot.root("/x").exists()


def test_a_second_run_changes_nothing(boot: Boot) -> None:
    operations = (parent("/etc"), directory("/x"), MachineId(store=STORE))
    boot.persist(*operations)
    # Somebody restarts the stage from the emergency shell: the volumes are mounted again.
    subprocess.run(["mount", "--bind", boot.root(STORE), boot.store], check=True)
    boot.persist(*operations)
    assert boot.results() == [
        "already attached",
        "already present",
        "already bound",
        "already present",
    ]


def test_the_machine_id_is_copied_from_the_store(boot: Boot) -> None:
    (boot.store / "etc").mkdir()
    (boot.store / "etc/machine-id").write_text(MACHINE_ID + "\n")
    boot.persist(parent("/etc"), MachineId(store=STORE))
    assert boot.root("/etc/machine-id").read_text() == MACHINE_ID + "\n"
    assert not boot.root("/etc/machine-id").is_mount()
    assert owner_and_mode(boot.root("/etc/machine-id")) == (0, 0, "0o444")


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0" * 32, "short"])
def test_a_machine_id_is_made_store_first(boot: Boot, content: str) -> None:
    (boot.store / "etc").mkdir()
    (boot.store / "etc/machine-id").write_text(content)
    boot.persist(parent("/etc"), MachineId(store=STORE))
    made = boot.root("/etc/machine-id").read_text()
    assert (boot.root(STORE) / "etc/machine-id").read_text() == made
    assert len(made) == 33
    assert made[12] == "4"


@pytest.mark.requires_program("findmnt")
def test_hidden_mounts_are_listed_by_libmount(boot: Boot) -> None:
    """By the one of this machine; those of Debian 12 and 13 are asked in their machines."""
    (boot.store / "file").write_text("")
    boot.persist(directory("/x y"), file("/file"), Hide(paths=["/x y", "/file"]))
    table = boot.run.parent / "mount" / "utab"
    lines = table.read_text()
    assert "TARGET=/x\\040y " in lines
    assert lines.endswith("OPTS=x-gvfs-hide\n")
    # As it would be after switch_root, for somebody whose root is still another.
    table.write_text(lines.replace("TARGET=", f"TARGET={boot.target}"))
    for path in ("/x y", "/file"):
        listed = subprocess.run(
            ["findmnt", "--mtab", "-rno", "OPTIONS", boot.root(path)],
            env=os.environ | {"LIBMOUNT_UTAB": str(table)},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "x-gvfs-hide" in listed.stdout.strip().split(",")


def test_a_new_declaration_takes_over_the_roots_content(boot: Boot) -> None:
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


def test_a_seeded_file_gets_what_was_asked_for(boot: Boot) -> None:
    for name in ("a", "b", "c"):
        boot.root(f"/{name}").write_text(name)
        os.chown(boot.root(f"/{name}"), 5, 6)
    boot.persist(file("/a"), file("/b", user=7, mode=0o4700), file("/c", group=8))
    assert owner_and_mode(boot.root("/a")) == (5, 6, "0o644")
    assert owner_and_mode(boot.root("/b")) == (7, 6, "0o4700")
    assert owner_and_mode(boot.root("/c")) == (5, 8, "0o644")


def test_a_wrong_owner_in_the_store_is_not_repaired(boot: Boot) -> None:
    (boot.store / "a").write_text("")
    os.chown(boot.store / "a", 12345, 54321)
    (boot.store / "d").mkdir(mode=0o711)
    os.chown(boot.store / "d", 12345, 54321)
    boot.persist(file("/a", user=7, mode=0o600), directory("/d", user=7), parent("/d/p"))
    assert owner_and_mode(boot.root("/a")) == (12345, 54321, "0o644")
    assert owner_and_mode(boot.root("/d")) == (12345, 54321, "0o711")


def test_a_label_in_the_store_comes_to_the_root(boot: Boot) -> None:
    label = b"system_u:object_r:var_log_t:s0\0"
    for name in ("var", "var/log"):
        (boot.store / name).mkdir()
        os.setxattr(boot.store / name, "security.selinux", label)
    boot.persist(parent("/var"), directory("/var/log"))
    for path in ("/var", "/var/log"):
        assert os.getxattr(boot.root(path), "security.selinux") == label


def test_a_label_is_given_to_what_is_new_only(boot: Boot) -> None:
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


def test_initial_empty_takes_nothing_over(boot: Boot) -> None:
    boot.root("/opt").mkdir()
    boot.root("/opt/default").write_text("")
    boot.root("/one").write_text("mine")
    boot.persist(directory("/opt", initial="empty"), file("/one", initial="empty"))
    assert list((boot.root(STORE) / "opt").iterdir()) == []
    assert not (boot.root(STORE) / "one").exists()


def test_a_subvolume_inside_the_store(tmp_path: Path) -> None:
    """Nothing is renamed from one subvolume to another (EXDEV)."""
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
def test_seeding_into_a_subvolume_of_the_store_that_is_cut_off(
    tmp_path: Path, declared: Callable[..., Operation], owner: int
) -> None:
    """A power cut before the last step: the next boot removes what it left, and seeds the path."""
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


def test_a_bug_in_one_operation_does_not_take_the_others_along(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(self: File, stage: object) -> str:
        raise RecursionError("too deep")

    monkeypatch.setattr(File, "execute", broken)
    (boot.store / "f").write_text("x")
    boot.persist(file("/f"), directory("/d"))
    assert boot.results()[1:] == ["failed: a bug", "created and bound"]
    assert "this is a bug: RecursionError('too deep')" in boot.problems()[0]
    assert "Traceback" in capfd.readouterr().err
    boot.next_boot()
    with pytest.raises(persist.PathFailed):
        boot.persist(file("/f"), policy="emergency")


def test_nobody_hears_what_is_said(boot: Boot) -> None:
    """journald may be gone, and that must not end a stage between two of its steps."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.dup2(writer, 2)
        boot.persist(directory("/d"))
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    assert boot.root("/d").is_mount()


def test_what_we_made_in_a_root_is_no_source(boot: Boot) -> None:
    boot.persist(directory("/gone"), file("/link"), parent("/p"))
    subprocess.run(["umount", boot.root("/gone")], check=True)
    subprocess.run(["mount", "--bind", boot.root(STORE), boot.store], check=True)
    boot.root("/gone/stray").write_text("written to the placeholder")
    (boot.store / "gone").rmdir()
    boot.persist(directory("/gone"))
    assert list((boot.root(STORE) / "gone").iterdir()) == []
    assert boot.results()[-1].startswith("created and bound")


def test_too_much_to_copy_is_refused_and_leaves_nothing(boot: Boot) -> None:
    boot.root("/big").mkdir()
    (boot.root("/big") / "file").write_bytes(b"x" * 4096)
    boot.persist(directory("/big"), seed_limit=4095)
    assert "adopt /big" in (boot.run / "boot.json").read_text()
    assert not (boot.root(STORE) / "big").exists()
    assert list((boot.root(STORE) / ".ephemeroot/seeding").iterdir()) == []
    assert (boot.root("/big") / "file").exists()


def test_a_full_store_is_refused_and_nothing_is_lost(boot: Boot) -> None:
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


def test_a_store_too_full_for_anything_new_stops_nothing(boot: Boot) -> None:
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


def test_a_root_that_is_full_boots_all_the_same(boot: Boot) -> None:
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


@pytest.mark.parametrize("method", ["auto", "symlink"])
def test_a_file_in_a_bound_directory_is_no_link_to_itself(boot: Boot, method: str) -> None:
    """It would be made in the store, through the bind: nothing could be written there."""
    for _ in range(2):
        boot.persist(directory("/srv"), file("/srv/note", method=method))
        assert boot.problems() == []
        assert boot.results()[-1] == "persists with its directory"
        assert not boot.root("/srv/note").is_symlink()
        boot.next_boot()
    boot.persist(directory("/srv"), file("/srv/note", method=method))
    boot.root("/srv/note").write_text("written")
    assert (boot.root(STORE) / "srv/note").read_text() == "written"


def test_a_volume_at_a_place_that_the_fresh_root_does_not_lead_to(boot: Boot) -> None:
    deep = "/srv/a/b/volume"
    (boot.run / "volumes/deep").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", boot.run / "volumes/deep"], check=True)
    boot.persist(Attach(mount_point=deep, volume="deep"))
    assert mountinfo.mounted_at(str(boot.root(deep))) is not None
    assert owner_and_mode(boot.root("/srv/a")) == (0, 0, "0o755")
    subprocess.run(["umount", boot.run / "volumes/deep"], check=True)


@pytest.mark.requires_program("bindfs")
def test_a_store_whose_filesystem_renames_without_flags(boot: Boot) -> None:
    """As NFS: renameat2(2) with RENAME_NOREPLACE is EINVAL there, and here on FUSE."""
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
def test_renames_without_flags_replace_nothing(tmp_path: Path, kind: str) -> None:
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
