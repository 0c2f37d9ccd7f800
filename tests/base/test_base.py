"""``ephemeroot base`` in its own mount namespace: accepted and refused results."""

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


# The mount at /, with the path from the top level, as a boot loader would find it.
ROOT_OF_MOUNTINFO = r"sed -n 's:^\S* \S* \S* \(\S*\) / .*:\1:p' /proc/self/mountinfo | tail -n 1"


def test_base_create_copies_the_running_root(machine: Machine) -> None:
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


def test_refuses_to_create_a_second_base(based: Machine) -> None:
    before = based.state()
    done = based.base("create")
    assert done.returncode == 2
    assert "a base already exists" in done.stderr
    assert based.state() == before


def test_refuses_a_base_of_another_root_than_the_running_one(machine: Machine) -> None:
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
        # A whiteout: the overlay shows no file at this name.
        (
            "rm etc/os-release; mkdir -p $usr/lib; mknod $usr/lib/os-release c 0 0",
            "has no /usr/lib/os-release",
        ),
        (f"mv lib/modules/{RUNNING} lib/modules/1.2.3", "has no modules for the running kernel"),
    ],
)
def test_refuses_a_root_that_could_not_boot_as_a_base(
    machine: Machine, broken: str, message: str
) -> None:
    environment = {**os.environ, "usr": str(machine.usr / "upper")}
    subprocess.run(["sh", "-ec", broken], cwd=machine.top / "root", env=environment, check=True)
    done = machine.base("create")
    assert done.returncode == 1
    assert message in done.stderr
    assert not machine.path.exists()
    assert machine.strays() == []


def test_reports_a_mistake_in_the_configuration(based: Machine) -> None:
    toml = based.top / "root/etc/ephemeroot/ephemeroot.toml"
    toml.write_text("[root\n")
    done = based.base("run", "--", "true")
    assert done.returncode == 2
    assert "is not valid TOML" in done.stderr


def test_a_command_changes_only_the_base(based: Machine) -> None:
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


def test_json_has_the_changes_but_not_the_output_of_the_command(based: Machine) -> None:
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


def test_a_failed_command_changes_nothing(based: Machine) -> None:
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


def test_removes_subvolumes_that_a_failed_command_created(based: Machine) -> None:
    before = based.state()
    done = based.run("btrfs -q subvolume create /var/images /var/images/inner; exit 1")
    assert done.returncode == 1
    assert based.state() == before
    assert based.strays() == []


def test_ends_processes_that_a_command_leaves_running(based: Machine) -> None:
    mark = f"{time.time_ns()}"
    done = based.run(f"setsid sleep {mark} & setsid sh -c 'trap \"\" TERM; sleep {mark}' &")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert mark not in listed.stdout


def test_a_new_kernel_and_its_modules_are_added_and_removed_together(based: Machine) -> None:
    done = based.run(install(NEW, removed=RUNNING))
    assert done.returncode == 0, done.stderr
    assert os.listdir(based.path / "lib/modules") == [NEW]
    assert sorted(os.listdir(based.boot)) == ["loader.conf", f"vmlinuz-{NEW}"]
    (old,) = based.old()
    # The previous base is unchanged: it has the kernel that its package database lists.
    assert os.listdir(based.top / "old_bases" / old / "lib/modules") == [RUNNING]
    assert based.strays() == []


def cut_off(machine: Machine, script: str) -> subprocess.Popen[bytes]:
    """``base run`` that has executed *script* and is still running."""
    script = f"{script}\ntouch /boot/here; echo here; sleep 600"
    words = machine.base_words("run", "--", "sh", "-ec", script)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"here\n" in iter(process.stdout.readline, b"")
    return process


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and its descendants at once, as a power cut would."""
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


def test_each_bootable_kernel_has_its_modules_while_a_command_runs(based: Machine) -> None:
    process = cut_off(based, install(NEW))
    try:
        assert sorted(os.listdir(based.path / "lib/modules")) == sorted([RUNNING, NEW])
    finally:
        kill_all(process)


def test_the_next_run_undoes_an_interrupted_one(based: Machine) -> None:
    before = based.state()
    kill_all(cut_off(based, install(NEW, removed=RUNNING) + "echo new > /etc/new"))
    assert based.strays() != []
    assert based.state() != before
    listed = based.base("list")
    assert "the last run was interrupted" in listed.stderr
    # Any verb that makes changes first undoes the interrupted run.
    done = based.run("true")
    assert "the base is unchanged" in done.stdout
    assert done.returncode == 0, done.stderr
    assert "the command changed nothing in the base" in done.stdout
    assert based.state() == before
    assert based.strays() == []


def test_a_run_that_is_terminated_changes_nothing(based: Machine) -> None:
    before = based.state()
    with cut_off(based, install(NEW, removed=RUNNING)) as process:
        process.terminate()
        assert process.wait(60) == 130
    assert based.state() == before
    assert based.strays() == []


def test_refuses_a_second_run_while_one_is_active(based: Machine) -> None:
    with cut_off(based, "true") as process:
        try:
            done = based.run("true")
            assert done.returncode == 3
            assert "locked by another run" in done.stderr
        finally:
            process.terminate()
            process.wait(60)


def test_refuses_a_kernel_without_modules(based: Machine) -> None:
    before = based.state()
    done = based.run(f"echo kernel > /boot/vmlinuz-{NEW}")
    assert done.returncode == 1
    assert f"/boot/vmlinuz-{NEW} would find no modules in the new base" in done.stderr
    assert based.state() == before


def test_refuses_a_boot_loader_entry_that_names_the_working_copy(based: Machine) -> None:
    before = based.state()
    done = based.run(f"{ROOT_OF_MOUNTINFO} > /boot/grub.cfg")
    assert done.returncode == 1
    assert "/boot/grub.cfg was generated for the temporary subvolume .root-base." in done.stderr
    assert based.state() == before


def test_a_boot_loader_script_sees_the_name_of_the_root(based: Machine) -> None:
    program = based.usr / "upper/bin/grub-mkrelpath"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n# as the real one\n{ROOT_OF_MOUNTINFO}\n")
    program.chmod(0o755)
    done = based.run("grub-mkrelpath / > /boot/grub.cfg")
    assert done.returncode == 0, done.stderr
    assert (based.boot / "grub.cfg").read_text() == "/root\n"
    assert program.read_text().startswith("#!/bin/sh\n# as the real one")


def test_refuses_a_command_that_breaks_the_system(based: Machine) -> None:
    before = based.state()
    done = based.run("rm /etc/os-release /usr/lib/os-release")
    assert done.returncode == 1
    assert "has no /usr/lib/os-release" in done.stderr
    assert based.state() == before


def test_refuses_a_read_only_base(based: Machine) -> None:
    btrfsutil.set_subvolume_read_only(str(based.path), True)
    done = based.run("true")
    assert done.returncode == 1
    assert "is a read-only subvolume" in done.stderr
    assert based.strays() == []


def test_mounts_persistent_paths_and_leaves_no_mount_point_behind(based: Machine) -> None:
    """A mount point that the base lacks is created for the duration of the run."""
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
def test_shows_the_files_of_the_base_and_the_persistent_directories(
    based: Machine, way: str
) -> None:
    """A package manager replaces files by rename, and its scripts use the data of services: files
    are those of the base, directories those of the store.
    """
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


def test_rollback_returns_to_the_previous_base(based: Machine) -> None:
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
    # The boot loader's kernel is that of the newer base.
    assert sorted(os.listdir(based.path / "lib/modules")) == sorted([RUNNING, NEW])
    assert len(based.old()) == 2
    # A second rollback goes forward again: the newest old base is the one just replaced.
    assert based.base("rollback", "--yes").returncode == 0
    assert (based.path / "etc/new").exists()


def test_rollback_without_an_old_base_is_refused(based: Machine) -> None:
    done = based.base("rollback", "--yes")
    assert done.returncode == 2
    assert "cannot roll back: there is no old base" in done.stderr
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


def test_a_command_without_changes_does_not_create_a_base(based: Machine) -> None:
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


def test_a_command_with_any_change_creates_a_base(based: Machine) -> None:
    for script in proof.sample(SOMETHING, 3):
        before = uuid(based.path)
        done = based.run(script)
        assert done.returncode == 0, (script, done.stderr)
        assert uuid(based.path) != before, (script, done.stdout)
        assert "no old base is made" not in done.stdout


def test_old_bases_beyond_keep_bases_are_deleted(based: Machine) -> None:
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
