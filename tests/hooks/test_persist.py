"""The persistence stage on real mounts: in memory, on ext4 and on btrfs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot import FSTYPES, STORE, Boot, directory, file, owner_and_mode, parent
from ephemeroot.errors import StoreMissing
from ephemeroot.hooks import persist
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.volumes import Attach
from ephemeroot.linux import mountinfo

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(params=FSTYPES)
def boot(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Boot]:
    boot = Boot(tmp_path, request.param)
    yield boot
    boot.unmount()


def test_creates_a_directory_with_its_owner_and_binds_it(boot: Boot) -> None:
    boot.persist(parent("/var"), directory("/var/colord", user=33, group=34, mode=0o2750))
    bound = boot.root("/var/colord")
    assert bound.is_mount()
    assert owner_and_mode(bound) == (33, 34, "0o2750")
    assert owner_and_mode(boot.root("/var")) == (0, 0, "0o755")
    (bound / "note").write_text("kept")
    assert (boot.root(STORE) / "var/colord/note").read_text() == "kept"
    assert boot.results()[-1] == "created and bound"


def test_the_stores_attributes_take_precedence_over_the_declaration(boot: Boot) -> None:
    (boot.store / "srv").mkdir(mode=0o700)
    os.chown(boot.store / "srv", 5, 6)
    boot.persist(directory("/srv", user=1, group=1, mode=0o777))
    assert owner_and_mode(boot.root("/srv")) == (5, 6, "0o700")


def test_parents_never_inherit_a_childs_mode(boot: Boot) -> None:
    boot.persist(parent("/a"), parent("/a/b"), directory("/a/b/c", mode=0o700))
    assert owner_and_mode(boot.root("/a/b")) == (0, 0, "0o755")
    assert owner_and_mode(boot.root(STORE) / "a/b") == (0, 0, "0o755")


def test_a_new_parent_has_the_attributes_of_the_roots_unless_declared(boot: Boot) -> None:
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
    # With an ACL, the group bits are its mask, acl(5).
    assert owner_and_mode(boot.root("/opt")) == (7, 8, "0o750")
    acl = subprocess.run(
        ["getfacl", "-cnp", boot.root("/opt")], capture_output=True, text=True, check=True
    )
    assert "user:9:r-x" in acl.stdout


def test_binds_a_file_that_the_store_has_and_links_it_otherwise(boot: Boot) -> None:
    (boot.store / "etc").mkdir()
    (boot.store / "etc/there").write_text("content")
    boot.persist(parent("/etc"), file("/etc/there"), file("/etc/absent"))
    assert mountinfo.mounted_at(str(boot.root("/etc/there"))) is not None
    assert boot.root("/etc/there").read_text() == "content"
    assert os.readlink(boot.root("/etc/absent")) == "/persistent/etc/absent"
    assert not (boot.root(STORE) / "etc/absent").exists()
    assert boot.results()[-2:] == ["bound", "linked"]


def test_a_link_that_persists_in_a_directory(boot: Boot) -> None:
    """A boot made the link when the file did not exist; a program has written through it since."""
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


def test_methods_bind_and_symlink_can_be_required(boot: Boot) -> None:
    (boot.store / "a").write_text("a")
    result = boot.persist(file("/a", method="symlink"), file("/b", method="bind"))
    assert os.readlink(boot.root("/a")) == "/persistent/a"
    assert not boot.root("/b").exists()
    assert result == "2 of 3 operations done"


def test_reports_content_that_a_bind_hides_and_keeps_it(boot: Boot) -> None:
    boot.root("/data").mkdir()
    boot.root("/data/old").write_text("hidden")
    (boot.store / "data").mkdir()
    boot.persist(directory("/data"))
    assert boot.results()[-1] == "bound, hiding 1 entry of the root"
    subprocess.run(["umount", boot.root("/data")], check=True)
    assert boot.root("/data/old").read_text() == "hidden"


def test_counts_hidden_names_only_up_to_a_limit(boot: Boot) -> None:
    boot.root("/data").mkdir()
    for number in range(1100):
        (boot.root("/data") / str(number)).touch()
    (boot.store / "data").mkdir()
    boot.persist(directory("/data"))
    assert boot.results()[-1] == "bound, hiding 1000 entries or more of the root"


def test_does_not_replace_content_in_place_of_a_link(boot: Boot) -> None:
    boot.root("/conf").write_text("mine")
    boot.persist(file("/conf", initial="empty"))
    assert boot.root("/conf").read_text() == "mine"
    assert "not replaced" in boot.results()[-1]


def test_sets_the_options_of_a_bind(boot: Boot) -> None:
    boot.persist(directory("/x", options=["noexec", "nosuid", "ro"]))
    with pytest.raises(OSError, match="Read-only"):
        (boot.root("/x") / "f").write_text("")
    flags = os.statvfs(boot.root("/x")).f_flag
    assert flags & os.ST_NOEXEC
    assert flags & os.ST_NOSUID
    assert not os.statvfs(boot.root(STORE)).f_flag & os.ST_RDONLY


def test_persists_odd_names(boot: Boot) -> None:
    names = ["/with blank", "/new\nline", "/-dash", "/sta*r", "/ünï", "/back\\slash", "/\\040"]
    result = boot.persist(*[directory(name) for name in names], Hide(paths=names))
    assert all(boot.root(name).is_mount() for name in names)
    assert result == "9 of 9 operations done"
    assert boot.results()[-1] == f"marked {len(names)}"


@pytest.mark.parametrize("where", ["on the way", "at the path"])
def test_a_link_that_the_plan_does_not_know_fails_that_path(boot: Boot, where: str) -> None:
    """`check` resolves paths; this plan was made for another root."""
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


def test_does_not_follow_a_users_link_in_the_root(boot: Boot) -> None:
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
def test_wrong_file_types_in_the_store_do_not_stop_the_stage(boot: Boot, shape: str) -> None:
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


def test_follows_the_policy_for_paths(boot: Boot) -> None:
    (boot.store / "may").write_text("no directory")
    with pytest.raises(persist.PathFailed, match="1 declared paths"):
        boot.persist(directory("/may"), policy="emergency")


def test_a_read_only_root_keeps_its_other_mount_options(boot: Boot) -> None:
    """Options of rootflags= need not be repeated in /etc/fstab."""
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


def test_a_read_only_root_is_made_writable_for_the_stage_only(boot: Boot) -> None:
    subprocess.run(["mount", "-o", "remount,ro", boot.target], check=True)
    boot.persist(directory("/made"))
    assert boot.root("/made").is_mount()
    assert os.statvfs(boot.target).f_flag & os.ST_RDONLY
    (boot.root("/made") / "file").write_text("the store is writable")


def test_the_store_must_be_the_declared_one(boot: Boot) -> None:
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


def test_a_second_persistence_stage_changes_nothing(boot: Boot) -> None:
    operations = (parent("/etc"), directory("/x"), MachineId(store=STORE))
    boot.persist(*operations)
    # The administrator restarts the stage from the emergency shell: the volumes are mounted again.
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
def test_the_machine_id_is_first_made_in_the_store(boot: Boot, content: str) -> None:
    (boot.store / "etc").mkdir()
    (boot.store / "etc/machine-id").write_text(content)
    boot.persist(parent("/etc"), MachineId(store=STORE))
    made = boot.root("/etc/machine-id").read_text()
    assert (boot.root(STORE) / "etc/machine-id").read_text() == made
    assert len(made) == 33
    assert made[12] == "4"


@pytest.mark.requires_program("findmnt")
def test_libmount_lists_hidden_mounts(boot: Boot) -> None:
    """With this host's libmount; vm-tests use those of Debian 12 and 13."""
    (boot.store / "file").write_text("")
    boot.persist(directory("/x y"), file("/file"), Hide(paths=["/x y", "/file"]))
    table = boot.run.parent / "mount" / "utab"
    lines = table.read_text()
    assert "TARGET=/x\\040y " in lines
    assert lines.endswith("OPTS=x-gvfs-hide\n")
    # As seen after switch_root, by a process whose root is still the previous one.
    table.write_text(lines.replace("TARGET=", f"TARGET={boot.target}"))
    for path in ("/x y", "/file"):
        listed = subprocess.run(
            ["findmnt", "--mtab", "-rno", "OPTIONS", boot.root(path)],
            env=os.environ | {"LIBMOUNT_UTAB": str(table)},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "x-gvfs-hide" in listed.stdout.strip().split(",")


def test_does_not_repair_a_wrong_owner_in_the_store(boot: Boot) -> None:
    (boot.store / "a").write_text("")
    os.chown(boot.store / "a", 12345, 54321)
    (boot.store / "d").mkdir(mode=0o711)
    os.chown(boot.store / "d", 12345, 54321)
    boot.persist(file("/a", user=7, mode=0o600), directory("/d", user=7), parent("/d/p"))
    assert owner_and_mode(boot.root("/a")) == (12345, 54321, "0o644")
    assert owner_and_mode(boot.root("/d")) == (12345, 54321, "0o711")


def test_copies_a_label_of_the_store_to_the_root(boot: Boot) -> None:
    label = b"system_u:object_r:var_log_t:s0\0"
    for name in ("var", "var/log"):
        (boot.store / name).mkdir()
        os.setxattr(boot.store / name, "security.selinux", label)
    boot.persist(parent("/var"), directory("/var/log"))
    for path in ("/var", "/var/log"):
        assert os.getxattr(boot.root(path), "security.selinux") == label


def test_an_internal_error_in_one_operation_does_not_stop_the_others(
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


def test_output_that_cannot_be_written_does_not_stop_the_boot(boot: Boot) -> None:
    """journald may have ended, which must not end a stage between two steps."""
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


@pytest.mark.parametrize("method", ["auto", "symlink"])
def test_a_file_in_a_bound_directory_is_not_linked_to_itself(boot: Boot, method: str) -> None:
    """The link would be created in the store, through the bind, in place of the file."""
    for _ in range(2):
        boot.persist(directory("/srv"), file("/srv/note", method=method))
        assert boot.problems() == []
        assert boot.results()[-1] == "persists with its directory"
        assert not boot.root("/srv/note").is_symlink()
        boot.next_boot()
    boot.persist(directory("/srv"), file("/srv/note", method=method))
    boot.root("/srv/note").write_text("written")
    assert (boot.root(STORE) / "srv/note").read_text() == "written"


def test_reports_a_volume_whose_mount_point_the_fresh_root_lacks(boot: Boot) -> None:
    deep = "/srv/a/b/volume"
    (boot.run / "volumes/deep").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", boot.run / "volumes/deep"], check=True)
    boot.persist(Attach(mount_point=deep, volume="deep"))
    assert mountinfo.mounted_at(str(boot.root(deep))) is not None
    assert owner_and_mode(boot.root("/srv/a")) == (0, 0, "0o755")
    subprocess.run(["umount", boot.run / "volumes/deep"], check=True)
