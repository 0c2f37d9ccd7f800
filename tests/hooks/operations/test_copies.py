"""Files with ``method = "copy"``: from the store to the root at boot, and back when they change."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot import IDENTITY, STORE, Boot, copy, directory, file, parent
from btrfs_image import btrfsutil
from copying_back import copy_back
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.store import copied

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

PASSWD = "root:x:0:0:root:/root:/bin/bash\n"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
SHADOW = "root:$y$secret:1:0:99999:7:::\n"


@pytest.fixture(params=["tmpfs", "btrfs"])
def boot(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Boot]:
    boot = Boot(tmp_path, request.param)
    (boot.store / "etc").mkdir()
    yield boot
    boot.unmount()


def fill(path: Path, content: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    os.chown(path, *owner)
    return path


def facts(path: Path) -> tuple[str, int, int, int]:
    status = path.lstat()
    return path.read_text(), status.st_mode & 0o7777, status.st_uid, status.st_gid


def replace(path: Path, content: str) -> None:
    """Replace a file by rename, as shadow-utils does."""
    status = path.stat()
    new = fill(path.with_name(path.name + "+"), content, status.st_mode & 0o7777)
    os.chown(new, status.st_uid, status.st_gid)
    new.rename(path)


def test_copies_a_file_with_all_attributes(boot: Boot) -> None:
    source = fill(boot.store / "etc/adjtime", "0.0\n", 0o640, (7, 8))
    os.setxattr(source, "trusted.note", b"x")
    os.setxattr(source, "security.selinux", b"system_u:object_r:adjtime_t:s0\0")
    boot.persist(parent("/etc"), copy("/etc/adjtime"))
    copied = boot.root("/etc/adjtime")
    assert facts(copied) == ("0.0\n", 0o640, 7, 8)
    assert os.getxattr(copied, "trusted.note") == b"x"
    assert os.getxattr(copied, "security.selinux") == b"system_u:object_r:adjtime_t:s0\0"
    assert not copied.is_mount()
    assert sorted(p.name for p in copied.parent.iterdir()) == ["adjtime"]
    assert boot.results()[-1] == "copied"


@pytest.mark.parametrize("flag", ["i", "a"])
def test_replaces_an_immutable_file_of_the_root(boot: Boot, flag: str) -> None:
    fill(boot.store / "etc/resolv.conf", "the store's")
    fill(boot.root("/etc/resolv.conf"), "the base's")
    subprocess.run(["chattr", f"+{flag}", boot.root("/etc/resolv.conf")], check=True)
    boot.persist(parent("/etc"), copy("/etc/resolv.conf"))
    assert boot.root("/etc/resolv.conf").read_text() == "the store's"
    assert boot.results()[-1] == "copied, replacing the root's file"


def test_names_an_immutable_directory_with_the_command_that_helps(boot: Boot) -> None:
    fill(boot.store / "etc/resolv.conf", "the store's")
    boot.root("/etc").mkdir(exist_ok=True)
    subprocess.run(["chattr", "+i", boot.root("/etc")], check=True)
    try:
        boot.persist(copy("/etc/resolv.conf"))
        assert boot.results()[-1] == "failed: /etc is immutable"
        report = json.loads((boot.run / "boot.json").read_text())
        assert "run 'chattr -i -a /etc'" in json.dumps(report)
    finally:
        subprocess.run(["chattr", "-i", boot.root("/etc")], check=True)


def written(path: Path) -> tuple[int, int]:
    """The values that change if the file is replaced or written. Reading changes none of them."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns


def test_copies_back_a_change_and_leaves_other_files_alone(boot: Boot) -> None:
    for name in ("one", "two"):
        fill(boot.store / "etc" / name, name)
    before = written(boot.store / "etc/two")
    boot.persist(parent("/etc"), copy("/etc/one"), copy("/etc/two"), copy("/etc/new"))
    assert copy_back(boot).copied == []
    replace(boot.root("/etc/one"), "changed")
    fill(boot.root("/etc/new"), "made", 0o600, (5, 6))
    back = copy_back(boot)
    assert (back.copied, back.problems) == (["/etc/one", "/etc/new"], [])
    stored = boot.root(STORE) / "etc"
    assert (stored / "one").read_text() == "changed"
    assert facts(stored / "new") == ("made", 0o600, 5, 6)
    assert written(stored / "two") == before
    assert sorted(p.name for p in (stored.parent / ".ephemeroot/copies").iterdir()) == []


def test_copies_back_a_changed_mode(boot: Boot) -> None:
    fill(boot.store / "etc/one", "x")
    boot.persist(parent("/etc"), copy("/etc/one"))
    boot.root("/etc/one").chmod(0o600)
    assert copy_back(boot).copied == ["/etc/one"]
    assert facts(boot.root(STORE) / "etc/one") == ("x", 0o600, 0, 0)


def test_a_missing_or_replaced_file_stays_in_the_store(boot: Boot) -> None:
    for name in ("gone", "link", "fifo", "folder"):
        fill(boot.store / "etc" / name, name)
    boot.persist(parent("/etc"), *[copy(f"/etc/{n}") for n in ("gone", "link", "fifo", "folder")])
    etc = boot.root("/etc")
    for path in list(etc.iterdir()):
        path.unlink()
    (etc / "link").symlink_to("/etc/shadow")
    os.mkfifo(etc / "fifo")
    (etc / "folder").mkdir()
    back = copy_back(boot)
    # A link stays a link.
    assert back.copied == ["/etc/link"]
    assert os.readlink(boot.root(STORE) / "etc/link") == "/etc/shadow"
    assert len(back.problems) == 2
    for name in ("gone", "fifo", "folder"):
        assert (boot.root(STORE) / "etc" / name).read_text() == name


def test_copies_nothing_back_without_the_store(boot: Boot) -> None:
    fill(boot.store / "etc/one", "x")
    boot.persist(parent("/etc"), copy("/etc/one"))
    replace(boot.root("/etc/one"), "changed")
    subprocess.run(["umount", boot.root(STORE)], check=True)
    back = copy_back(boot)
    assert back.copied == []
    assert "is not a store" in back.problems[0]
    assert list(boot.root(STORE).iterdir()) == []


def test_does_not_copy_back_over_a_file_that_could_not_be_copied(boot: Boot) -> None:
    """The root then has the base's file, which must not replace the store's."""
    fill(boot.store / "etc/large", "x" * 5000)
    fill(boot.root("/etc/large"), "the base's")
    boot.persist(parent("/etc"), copy("/etc/large"), seed_limit=4096)
    assert "larger than the seed limit" in boot.problems()[0]
    assert boot.root("/etc/large").read_text() == "the base's"
    assert not (boot.run / "copies").exists()


def test_creates_no_empty_file(boot: Boot) -> None:
    boot.persist(parent("/etc"), copy("/etc/none"))
    assert boot.results()[-1] == "nothing to copy yet"
    assert list(boot.root("/etc").iterdir()) == []
    assert not (boot.root(STORE) / "etc/none").exists()


def test_seeds_a_file_with_the_declared_attributes(boot: Boot) -> None:
    fill(boot.root("/etc/conf"), "the base's", 0o644, (3, 3))
    boot.persist(parent("/etc"), copy("/etc/conf", user=7, mode=0o600))
    assert facts(boot.root(STORE) / "etc/conf") == ("the base's", 0o600, 7, 3)
    assert facts(boot.root("/etc/conf")) == ("the base's", 0o600, 7, 3)
    boot.next_boot()
    (boot.store / "etc/conf").chmod(0o640)
    boot.persist(parent("/etc"), copy("/etc/conf", user=1, group=1, mode=0o777))
    assert facts(boot.root("/etc/conf")) == ("the base's", 0o640, 7, 3)


def test_adds_system_users_of_a_newer_base(boot: Boot) -> None:
    fill(boot.store / "etc/passwd", PASSWD + "eve:x:1000:1000::/home/eve:/bin/sh\n")
    fill(boot.store / "etc/shadow", SHADOW, 0o640, (0, 42))
    fill(boot.root("/etc/passwd"), PASSWD + "sql:x:990:990::/:/bin/false\n")
    fill(boot.root("/etc/shadow"), "root:*:1::::::\nsql:!:2::::::\n", 0o640, (0, 42))
    boot.persist(parent("/etc"), copy("/etc/passwd"), copy("/etc/shadow"))
    assert boot.problems() == []
    for place in (boot.root("/etc"), boot.root(STORE) / "etc"):
        assert "eve:" in (place / "passwd").read_text()
        assert (place / "passwd").read_text().endswith("sql:x:990:990::/:/bin/false\n")
        assert facts(place / "shadow") == (SHADOW + "sql:!:2::::::\n", 0o640, 0, 42)
    assert boot.results()[-1] == "added sql from the base and copied, replacing the root's file"


@pytest.mark.parametrize("content", ["", "eve:x:1000:1000::/:/bin/sh\n", PASSWD[:9] + "\0" * 99])
def test_a_torn_passwd_in_the_store_does_not_lock_root_out(boot: Boot, content: str) -> None:
    fill(boot.store / "etc/passwd", content)
    fill(boot.root("/etc/passwd"), PASSWD)
    boot.persist(parent("/etc"), copy("/etc/passwd"))
    assert boot.root("/etc/passwd").read_text() == PASSWD
    assert (boot.root(STORE) / "etc/passwd").read_text() == PASSWD
    assert (boot.root(STORE) / "etc/passwd.damaged").read_text() == content
    assert "passwd.damaged" in boot.problems()[0]


def test_a_torn_passwd_in_the_root_is_not_copied_back(boot: Boot) -> None:
    fill(boot.store / "etc/passwd", PASSWD)
    boot.persist(parent("/etc"), copy("/etc/passwd"))
    replace(boot.root("/etc/passwd"), "")
    back = copy_back(boot)
    assert back.copied == []
    assert "no user with the id 0" in back.problems[0]
    assert (boot.root(STORE) / "etc/passwd").read_text() == PASSWD


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "device"])
def test_reports_wrong_file_types_in_the_store(boot: Boot, kind: str) -> None:
    place = boot.store / "etc/passwd"
    if kind == "directory":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to("/etc/shadow")
    else:
        os.mknod(place, 0o020666, os.makedev(1, 5))
    fill(boot.root("/etc/passwd"), PASSWD)
    boot.persist(parent("/etc"), copy("/etc/passwd"), parent("/after"))
    assert boot.root("/etc/passwd").read_text() == PASSWD
    assert boot.results()[-2].startswith("failed")
    assert boot.root("/after").is_dir()


def test_copies_into_a_subvolume_inside_the_store(tmp_path: Path) -> None:
    """A rename from one subvolume to another fails with EXDEV."""
    boot = Boot(tmp_path, "btrfs")
    btrfsutil.create_subvolume(str(boot.store / "etc"))
    fill(boot.store / "etc/passwd", PASSWD)
    fill(boot.store / "etc/one", "x", 0o640, (3, 4))
    fill(boot.root("/etc/passwd"), PASSWD + "sql:x:990:990::/:/bin/false\n")
    boot.persist(parent("/etc"), copy("/etc/passwd"), copy("/etc/one"))
    assert "added sql from the base" in boot.results()[-2]
    replace(boot.root("/etc/one"), "y")
    back = copy_back(boot)
    assert (back.copied, back.problems) == (["/etc/one"], [])
    stored = boot.root(STORE) / "etc"
    assert facts(stored / "one") == ("y", 0o640, 3, 4)
    assert "sql" in (stored / "passwd").read_text()
    assert sorted(os.listdir(stored)) == ["one", "passwd"]
    for folder in ("copies", "seeding"):
        assert os.listdir(boot.root(STORE) / ".ephemeroot" / folder) == []
    boot.unmount()


def test_copies_back_related_files_together(boot: Boot) -> None:
    """The power fails after the record is written, before and between the renames."""
    for name, content in (("passwd", PASSWD), ("shadow", SHADOW)):
        fill(boot.store / "etc" / name, content)
    operations = (parent("/etc"), copy("/etc/passwd"), copy("/etc/shadow"))
    boot.persist(*operations)
    store = boot.root(STORE)
    folder = store / ".ephemeroot/copies"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    eve = {"passwd": "eve:x:1000:1000::/:/bin/sh\n", "shadow": "eve:!:1::::::\n"}
    for renamed in ([], ["passwd"], ["passwd", "shadow"]):
        renames = []
        for name, old in (("passwd", PASSWD), ("shadow", SHADOW)):
            temporary = f"t-{name}"
            fill(store / "etc" / name, old)
            fill(folder / temporary, old + eve[name])
            renames.append([temporary, f"etc/{name}"])
            if name in renamed:
                (folder / temporary).rename(store / "etc" / name)
        (folder / "commit").write_text(json.dumps(renames))
        boot.next_boot()
        boot.persist(*operations)
        assert boot.root("/etc/passwd").read_text() == PASSWD + eve["passwd"]
        assert boot.root("/etc/shadow").read_text() == SHADOW + eve["shadow"]
        store = boot.root(STORE)
        folder = store / ".ephemeroot/copies"
        assert list(folder.iterdir()) == []


def test_a_name_that_cannot_be_replaced_does_not_stop_the_others(boot: Boot) -> None:
    fill(boot.store / "etc/one", "x")
    fill(boot.store / "etc/two", "x")
    boot.persist(parent("/etc"), copy("/etc/one"), copy("/etc/two"))
    for name in ("one", "two"):
        replace(boot.root("/etc") / name, "changed")
    stored = boot.root(STORE) / "etc"
    (stored / "one").unlink()
    (stored / "one").mkdir()
    back = copy_back(boot)
    assert back.copied == ["/etc/two"]
    assert "/etc/one was not copied" in back.problems[0]
    assert (stored / "two").read_text() == "changed"
    assert copy_back(boot).copied == []


def test_waits_for_a_program_that_changes_accounts(boot: Boot) -> None:
    fill(boot.store / "etc/passwd", PASSWD)
    boot.persist(parent("/etc"), copy("/etc/passwd"))
    replace(boot.root("/etc/passwd"), PASSWD + "eve:x:1000:1000::/:/bin/sh\n")
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    lock = boot.root("/etc/.pwd.lock")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        back = copy_back(boot, patience=0.2)
        process.communicate()
    # A lock that is never released must not make the machine forget its users.
    assert "holds /etc/.pwd.lock" in back.problems[0]
    assert back.copied == ["/etc/passwd"]
    with lock.open("w") as free:
        fcntl.lockf(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_kept_root_newer_than_the_store_is_copied_back(boot: Boot) -> None:
    fill(boot.store / "etc/one", "x")
    boot.persist(parent("/etc"), copy("/etc/one"))
    replace(boot.root("/etc/one"), "in the last second")
    boot.next_boot(wiped=False)
    (boot.run / "wiped").write_text(json.dumps({"boot-id": "boot", "kept": "for once"}))
    boot.persist(parent("/etc"), copy("/etc/one"))
    assert (boot.root(STORE) / "etc/one").read_text() == "in the last second"
    assert boot.root("/etc/one").read_text() == "in the last second"


def test_a_change_of_the_store_takes_precedence(boot: Boot) -> None:
    fill(boot.store / "etc/one", "x")
    boot.persist(parent("/etc"), copy("/etc/one"))
    replace(boot.root("/etc/one"), "in the root")
    boot.next_boot(wiped=False)
    replace(boot.store / "etc/one", "from a backup")
    (boot.run / "wiped").write_text(json.dumps({"boot-id": "boot", "kept": "for once"}))
    boot.persist(parent("/etc"), copy("/etc/one"))
    assert boot.root("/etc/one").read_text() == "from a backup"


def test_the_unit_watches_each_copied_file(boot: Boot) -> None:
    names = ["/a b", "/50%", "/new\nline", "/back\\"]
    for name in names:
        fill(boot.store / name[1:], "x")
    boot.persist(*[copy(name) for name in names])
    drop_in = boot.run.parent / copied.WATCHED
    assert drop_in.read_text() == "[Path]\nPathChanged=/a b\nPathChanged=/50%%\n"
    assert [entry["path"] for entry in json.loads((boot.run / "copies").read_text())["files"]] == (
        names
    )
    assert json.loads((boot.run / "copies").read_text())["stores"] == {STORE: IDENTITY}


def test_copies_to_a_read_only_root(boot: Boot) -> None:
    fill(boot.store / "etc/one", "x")
    subprocess.run(["mount", "-o", "remount,ro", boot.target], check=True)
    boot.persist(parent("/etc"), copy("/etc/one"))
    assert boot.root("/etc/one").read_text() == "x"
    assert os.statvfs(boot.target).f_flag & os.ST_RDONLY


@pytest.mark.parametrize("why", ["full", "read-only"])
def test_a_read_only_store_still_provides_the_accounts(boot: Boot, why: str) -> None:
    fill(boot.store / "etc/passwd", PASSWD + "me:x:1000:1000::/home/me:/bin/sh\n")
    fill(boot.root("/etc/passwd"), PASSWD + "sql:x:101:101::/:/bin/false\n")
    if why == "full":
        boot.fill(boot.store)
    else:
        subprocess.run(["mount", "-o", "remount,ro,bind", boot.store], check=True)
    boot.persist(parent("/etc"), copy("/etc/passwd"))
    assert "me:x:1000" in boot.root("/etc/passwd").read_text()
    assert "cannot add the base's entries" in boot.problems()[0]
    if why == "full":
        for ballast in boot.root(STORE).glob("ballast*"):
            ballast.unlink()


def test_a_full_store_keeps_its_files(boot: Boot) -> None:
    """The root keeps the newer files until the store has room again."""
    fill(boot.store / "etc/one", "x")
    boot.persist(parent("/etc"), copy("/etc/one"))
    boot.fill(boot.root(STORE))
    content = os.urandom(1 << 18).hex()
    boot.root("/etc/one").write_text(content)
    back = copy_back(boot)
    assert "No space left" in back.problems[0]
    assert back.refused is not None
    assert back.refused.errno == errno.ENOSPC
    assert (boot.root(STORE) / "etc/one").read_text() == "x"
    boot.next_boot(wiped=False)
    (boot.run / "wiped").write_text(json.dumps({"boot-id": "boot", "kept": "for once"}))
    boot.persist(parent("/etc"), copy("/etc/one"))
    assert "has no space for the changes of /etc/one" in boot.results()[-1]
    assert boot.root("/etc/one").read_text() == content
    for ballast in boot.root(STORE).glob("ballast*"):
        ballast.unlink()
    assert copy_back(boot).copied == ["/etc/one"]
    assert (boot.root(STORE) / "etc/one").read_text() == content


def test_stores_the_machine_id_of_a_first_boot_once_systemd_has_made_it(boot: Boot) -> None:
    """On a root in memory nothing else would keep it: every boot would be a first boot."""
    boot.persist(parent("/etc"), MachineId(store=STORE, first_boot=True))
    copied = boot.root("/etc/machine-id")
    stored = boot.root(STORE) / "etc/machine-id"
    assert copied.read_text() == "uninitialized\n"
    assert copy_back(boot).copied == []
    assert not stored.exists()
    copied.unlink()
    fill(copied, f"{MACHINE_ID}\n", 0o444)
    back = copy_back(boot)
    assert (back.copied, back.problems) == (["/etc/machine-id"], [])
    assert facts(stored) == (f"{MACHINE_ID}\n", 0o444, 0, 0)
    boot.next_boot()
    boot.persist(parent("/etc"), MachineId(store=STORE, first_boot=True))
    assert copied.read_text() == f"{MACHINE_ID}\n"
    assert boot.results()[-1] == "copied"


@pytest.mark.requires_program("ssh-keygen")
@pytest.mark.parametrize("how", ["bound directory", "linked file", "copied file"])
def test_ssh_host_keys_of_the_first_boot_are_those_of_the_second(boot: Boot, how: str) -> None:
    """The machine makes its keys with ssh-keygen."""
    key = "/etc/ssh/ssh_host_ed25519_key"
    operations: dict[str, list[Operation]] = {
        "bound directory": [directory("/etc/ssh")],
        "linked file": [parent("/etc/ssh"), file(key), file(f"{key}.pub")],
        "copied file": [parent("/etc/ssh"), copy(key), copy(f"{key}.pub")],
    }
    boot.persist(parent("/etc"), *operations[how])
    # the target of the link after switch_root; ssh-keygen -A would replace the link
    if how == "linked file":
        made_at = str(boot.root(STORE)) + key
        command = ["-q", "-t", "ed25519", "-N", "", "-f", made_at]
    else:
        command = ["-A", "-f", str(boot.target)]
    subprocess.run(["ssh-keygen", *command], check=True, capture_output=True)
    if how == "copied file":
        assert copy_back(boot).copied == [key, f"{key}.pub"]
    public = (boot.root(STORE) / f"{key[1:]}.pub").read_text()
    boot.next_boot()
    boot.persist(parent("/etc"), *operations[how])
    assert facts(boot.root(f"{key}.pub"))[0] == public
    assert facts(boot.root(key))[1:] == (0o600, 0, 0)
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", boot.root(key)], check=True, capture_output=True, text=True
    )
    assert shown.stdout.split()[:2] == public.split()[:2]
