"""``ephemeroot base`` in a machine of its own: what replaces a base, and what must not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import process_end
import proof
from base_machine import RUNNING, Machine, install
from btrfs_image import btrfsutil, fresh_disk, uuid

pytestmark = pytest.mark.requires_loop

NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(\.\d+)?")
NEW = "9.9.9-test"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path, 512) as disk:
        yield Machine(disk, tmp_path / "machine")


@pytest.fixture
def based(machine: Machine) -> Machine:
    machine.create()
    return machine


# The mount at /: the path from the top level, as a boot loader would find it.
ROOT_OF_MOUNTINFO = r"sed -n 's:^\S* \S* \S* \(\S*\) / .*:\1:p' /proc/self/mountinfo | tail -n 1"


def test_the_first_base_is_a_copy_of_the_running_root(machine: Machine) -> None:
    assert machine.listed() == []
    dry = machine.base("create", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert not machine.path.exists()
    (machine.top / "root/etc/mine").write_text("mine")
    done = machine.base("create")
    assert done.returncode == 0, done.stderr
    foreseen = [line.removesuffix(": not done: dry run") for line in dry.stdout.splitlines()]
    assert foreseen == done.stdout.splitlines()[: len(foreseen)]
    assert (machine.path / "etc/mine").read_text() == "mine"
    (only,) = machine.listed()
    assert (only["name"], only["present"], only["kernels"]) == ("root-base", True, [RUNNING])
    assert only["system"] == "Test 1"
    assert machine.strays() == []


def test_a_second_first_base_is_refused(based: Machine) -> None:
    before = based.state()
    done = based.base("create")
    assert done.returncode == 2
    assert "a base already exists" in done.stderr
    assert based.state() == before


def test_a_base_of_another_root_than_the_running_one_is_refused(machine: Machine) -> None:
    toml = machine.top / "root/etc/ephemeroot/ephemeroot.toml"
    btrfsutil.create_subvolume(str(machine.top / "other"))
    toml.write_text(toml.read_text().replace('"root"\nbase', '"other"\nbase'))
    done = machine.base("create")
    assert done.returncode == 1
    assert "the running root is not the subvolume 'other'" in done.stderr
    assert not machine.path.exists()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        # A whiteout: the overlay shows nothing there.
        (
            "rm etc/os-release; mkdir -p $usr/lib; mknod $usr/lib/os-release c 0 0",
            "has no /usr/lib/os-release",
        ),
        (f"mv lib/modules/{RUNNING} lib/modules/1.2.3", "has no modules for the running kernel"),
    ],
)
def test_a_root_that_could_not_boot_is_not_a_base(
    machine: Machine, broken: str, message: str
) -> None:
    environment = {**os.environ, "usr": str(machine.usr / "upper")}
    subprocess.run(["sh", "-ec", broken], cwd=machine.top / "root", env=environment, check=True)
    done = machine.base("create")
    assert done.returncode == 1
    assert message in done.stderr
    assert not machine.path.exists()
    assert machine.strays() == []


def test_a_mistake_in_the_configuration_is_shown(based: Machine) -> None:
    toml = based.top / "root/etc/ephemeroot/ephemeroot.toml"
    toml.write_text("[root\n")
    done = based.base("run", "--", "true")
    assert done.returncode == 2
    assert "is not valid TOML" in done.stderr


def test_a_command_changes_the_base_and_nothing_else(based: Machine) -> None:
    before = uuid(based.path)
    done = based.run("echo new > /etc/new; test -e /proc/self; test -c /dev/null; test -d /sys/fs")
    assert done.returncode == 0, done.stderr
    assert (based.path / "etc/new").read_text() == "new\n"
    assert not (based.top / "root/etc/new").exists()
    (old,) = based.old()
    assert NAME.fullmatch(old)
    assert uuid(based.top / "old_bases" / old) == before
    assert not (based.top / "old_bases" / old / "etc/new").exists()
    assert [row["name"] for row in based.listed()] == ["root-base", old]
    assert based.strays() == []


def test_json_has_the_changes_and_not_the_commands_output(based: Machine) -> None:
    done = based.base("run", "--json", "--", "sh", "-c", "echo from the command")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "ephemeroot-base"
    assert "from the command" in done.stderr


def test_a_dry_run_changes_nothing(based: Machine) -> None:
    before = based.state()
    done = based.base("run", "--dry-run", "--", "touch", "/etc/new")
    assert done.returncode == 0, done.stderr
    assert "run touch /etc/new in a copy of root-base: not done: dry run" in done.stdout
    assert based.state() == before


def test_a_command_that_fails_changes_nothing(based: Machine) -> None:
    before = based.state()
    done = based.run(install(NEW, removed=RUNNING) + "echo new > /etc/new; exit 7")
    assert done.returncode == 1
    assert "sh ended with exit status 7" in done.stderr
    assert based.state() == before
    assert based.strays() == []


def test_a_missing_program_changes_nothing(based: Machine) -> None:
    before = based.state()
    done = based.base("run", "--", "no-such-program")
    assert done.returncode == 1
    assert "the program 'no-such-program' is not installed in the base" in done.stderr
    assert based.state() == before
    assert based.strays() == []


def test_subvolumes_that_a_failed_command_made_go_with_it(based: Machine) -> None:
    before = based.state()
    done = based.run("btrfs -q subvolume create /var/images /var/images/inner; exit 1")
    assert done.returncode == 1
    assert based.state() == before
    assert based.strays() == []


def test_what_a_command_leaves_running_is_ended(based: Machine) -> None:
    mark = f"{time.time_ns()}"
    done = based.run(f"setsid sleep {mark} & setsid sh -c 'trap \"\" TERM; sleep {mark}' &")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert mark not in listed.stdout


def test_a_kernel_arrives_with_its_modules_and_leaves_with_them(based: Machine) -> None:
    done = based.run(install(NEW, removed=RUNNING))
    assert done.returncode == 0, done.stderr
    assert os.listdir(based.path / "lib/modules") == [NEW]
    assert sorted(os.listdir(based.boot)) == ["loader.conf", f"vmlinuz-{NEW}"]
    (old,) = based.old()
    # The base that was is what it was: it lists the kernel that its packages list.
    assert os.listdir(based.top / "old_bases" / old / "lib/modules") == [RUNNING]
    assert based.strays() == []


def cut_off(machine: Machine, script: str) -> subprocess.Popen[bytes]:
    """``base run`` that has done *script* and has not ended."""
    script = f"{script}\ntouch /boot/here; echo here; sleep 600"
    words = machine.base_words("run", "--", "sh", "-ec", script)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"here\n" in iter(process.stdout.readline, b"")
    return process


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """End *process* and what it started as a power cut would."""
    every = descendants(process.pid)
    with process_end.watching(every) as wait:
        process.kill()
        for one in every:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.communicate()
        wait()


def descendants(pid: int) -> list[int]:
    children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def test_while_a_command_runs_whichever_kernel_boots_has_its_modules(based: Machine) -> None:
    process = cut_off(based, install(NEW))
    try:
        assert sorted(os.listdir(based.path / "lib/modules")) == sorted([RUNNING, NEW])
    finally:
        kill_all(process)


def test_a_run_that_was_cut_off_is_taken_back(based: Machine) -> None:
    before = based.state()
    kill_all(cut_off(based, install(NEW, removed=RUNNING) + "echo new > /etc/new"))
    assert based.strays() != []
    assert based.state() != before
    listed = based.base("list")
    assert "a run was cut off" in listed.stderr
    # Any verb that changes something puts things in order first.
    done = based.run("true")
    assert "the base is unchanged" in done.stdout
    assert done.returncode == 0, done.stderr
    assert "the command changed nothing in the base" in done.stdout
    assert based.state() == before
    assert based.strays() == []


def test_a_run_that_is_asked_to_end_changes_nothing(based: Machine) -> None:
    before = based.state()
    with cut_off(based, install(NEW, removed=RUNNING)) as process:
        process.terminate()
        assert process.wait(60) == 130
    assert based.state() == before
    assert based.strays() == []


def test_two_runs_at_once(based: Machine) -> None:
    with cut_off(based, "true") as process:
        try:
            done = based.run("true")
            assert done.returncode == 3
            assert "locked by another run" in done.stderr
        finally:
            process.terminate()
            process.wait(60)


def test_a_kernel_without_modules_is_refused(based: Machine) -> None:
    before = based.state()
    done = based.run(f"echo kernel > /boot/vmlinuz-{NEW}")
    assert done.returncode == 1
    assert f"/boot/vmlinuz-{NEW} would find no modules in the new base" in done.stderr
    assert based.state() == before


def test_a_boot_loader_that_names_the_copy_is_refused(based: Machine) -> None:
    before = based.state()
    done = based.run(f"{ROOT_OF_MOUNTINFO} > /boot/grub.cfg")
    assert done.returncode == 1
    assert "/boot/grub.cfg was generated for the temporary subvolume .root-base." in done.stderr
    assert based.state() == before


def test_a_boot_loader_that_asks_gets_the_roots_name(based: Machine) -> None:
    program = based.usr / "upper/bin/grub-mkrelpath"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n# as the real one\n{ROOT_OF_MOUNTINFO}\n")
    program.chmod(0o755)
    done = based.run("grub-mkrelpath / > /boot/grub.cfg")
    assert done.returncode == 0, done.stderr
    assert (based.boot / "grub.cfg").read_text() == "/root\n"
    assert program.read_text().startswith("#!/bin/sh\n# as the real one")


def test_a_command_that_breaks_the_system_is_refused(based: Machine) -> None:
    before = based.state()
    done = based.run("rm /etc/os-release /usr/lib/os-release")
    assert done.returncode == 1
    assert "has no /usr/lib/os-release" in done.stderr
    assert based.state() == before


def test_a_read_only_base_is_refused(based: Machine) -> None:
    btrfsutil.set_subvolume_read_only(str(based.path), True)
    done = based.run("true")
    assert done.returncode == 1
    assert "is a read-only subvolume" in done.stderr
    assert based.strays() == []


def test_persistent_paths_are_mounted_and_leave_nothing_behind(based: Machine) -> None:
    """A mount point of this machine that the base lacks is made for the run only."""
    words = based.base_words("run", "--", "sh", "-ec", "cat /srv/kept/file > /etc/seen")
    mount = "mkdir -p /srv/kept; mount -t tmpfs tmpfs /srv/kept; echo kept > /srv/kept/file; "
    done = subprocess.run(
        [*words[: words.index("base") - 1], "sh", "-ec", mount + 'exec "$@"', "sh",
         *words[words.index("base") - 1 :]],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (based.path / "etc/seen").read_text() == "kept\n"
    assert not (based.path / "srv").exists()


@pytest.mark.parametrize("way", ["rename", "write", "remove"])
def test_bound_file_is_the_bases_own_and_a_bound_directory_the_persistent_one(
    based: Machine, way: str
) -> None:
    """A package manager replaces a file by rename, and its scripts find the data of a service."""
    (based.path / "etc/tool.conf").write_text("version 1\n")
    command = {
        "rename": "echo version 2 > /etc/new; mv -f /etc/new /etc/tool.conf",
        "write": "echo version 2 > /etc/tool.conf",
        "remove": "rm /etc/tool.conf",
    }[way]
    words = based.base_words("run", "--", "sh", "-ec", f"cat /srv/kept/file > /etc/seen; {command}")
    at = words.index("base") - 1
    prepare = (
        "mkdir -p /srv/kept /etc; mount -t tmpfs tmpfs /srv/kept; echo kept > /srv/kept/file; "
        "echo stored > /srv/kept/tool.conf; touch /etc/tool.conf; "
        "mount --bind /srv/kept/tool.conf /etc/tool.conf; "
    )
    after = '"$@"; test "$(cat /etc/tool.conf)" = stored'
    done = subprocess.run(
        [*words[:at], "sh", "-ec", prepare + after, "sh", *words[at:]],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (based.path / "etc/seen").read_text() == "kept\n"
    own = based.path / "etc/tool.conf"
    assert (own.read_text() if own.exists() else "") == ("" if way == "remove" else "version 2\n")
    assert "use the base's own /etc/tool.conf" in done.stdout + done.stderr


def test_going_back(based: Machine) -> None:
    assert based.run(install(NEW, removed=RUNNING) + "echo new > /etc/new").returncode == 0
    newer = uuid(based.path)
    (old,) = based.old()
    refused = based.base("rollback")
    assert (refused.returncode, "add --yes" in refused.stderr) == (2, True)
    dry = based.base("rollback", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert uuid(based.path) == newer
    done = based.base("rollback", old, "--yes")
    assert done.returncode == 0, done.stderr
    assert not (based.path / "etc/new").exists()
    # The kernel that the boot loader has comes from the newer one.
    assert sorted(os.listdir(based.path / "lib/modules")) == sorted([RUNNING, NEW])
    assert len(based.old()) == 2
    # And forward again: the newest is the one that was just replaced.
    assert based.base("rollback", "--yes").returncode == 0
    assert (based.path / "etc/new").exists()


def test_going_back_to_nothing(based: Machine) -> None:
    done = based.base("rollback", "--yes")
    assert done.returncode == 2
    assert "there is no old base" in done.stderr
    done = based.base("rollback", "2020-01-01T00-00-00Z", "--yes")
    assert done.returncode == 2
    assert "there is no old base '2020-01-01T00-00-00Z'" in done.stderr
    assert "ephemeroot base list" in done.stderr


NOTHING = (
    "true", "touch -a /etc/os-release", "touch /etc/x; rm /etc/x", "echo stays > /boot/new.cfg",
    "chmod 0755 /etc; chmod 0644 /etc/passwd", "cat /etc/os-release",
    f"rm -r /lib/modules/{RUNNING}/none 2>&1 || true",
)  # fmt: skip
SOMETHING = (
    "touch /etc/x", "touch -d 2001-01-01 /etc/os-release", "echo x >> /etc/os-release",
    "chmod 0700 /etc/ephemeroot", "chmod 0600 /etc/os-release", "chown 1:1 /etc/passwd",
    "mkdir /etc/empty", "rm /etc/passwd", "ln -s x /etc/link", "chattr +C /etc/ephemeroot",
    "mv /etc/passwd /etc/passwd-", "cp -a /etc/os-release /x; mv /x /etc/os-release",
    "mknod /etc/p p", f"echo > /lib/modules/{RUNNING}/new", f"mkdir /lib/modules/{NEW}",
    "ln /etc/passwd /etc/hard", "setfattr -n user.x -v y /etc/passwd",
)  # fmt: skip


def test_a_command_that_changes_nothing_does_not_create_a_base(based: Machine) -> None:
    before = uuid(based.path)
    for script in proof.sample(NOTHING, 3):
        dated = based.path.stat().st_mtime_ns
        done = based.run(script)
        assert done.returncode == 0, (script, done.stderr)
        assert (uuid(based.path), based.old()) == (before, []), (script, done.stdout)
        assert "no old base is made" in done.stdout
        assert based.path.stat().st_mtime_ns == dated
        assert based.strays() == []
    done = based.base("run", "--json", "--", "sh", "-c", "echo stays > /boot/new.cfg")
    assert json.loads(done.stdout)["changed"] is False
    assert (based.boot / "new.cfg").read_text() == "stays\n"


def test_a_command_that_changes_anything_makes_a_new_base(based: Machine) -> None:
    for script in proof.sample(SOMETHING, 3):
        before = uuid(based.path)
        done = based.run(script)
        assert done.returncode == 0, (script, done.stderr)
        assert uuid(based.path) != before, (script, done.stdout)
        assert "no old base is made" not in done.stdout


def test_old_bases_beyond_keep_bases_go(based: Machine) -> None:
    said = ""
    for number in range(4):
        done = based.run(f"echo {number} > /etc/number")
        assert done.returncode == 0
        said += done.stdout
    assert len(based.old()) == 2
    assert said.count("(keep-bases is 2)") == 2
    assert "keep-days" not in said + based.base("rollback", "--dry-run").stdout
    numbers = [(based.top / "old_bases" / name / "etc/number").read_text() for name in based.old()]
    assert numbers == ["1\n", "2\n"]
