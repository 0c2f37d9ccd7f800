"""Both stages as a boot runs them: the real entry point, a real btrfs, one process for each stage.

``Machine`` is what a boot finds: a disk with a base, a root and a store. Each test makes one fault,
and checks that the boot does not do harm.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import btrfsutil
import pytest

import ephemeroot
from btrfs_image import fresh_disk, mounted
from complete_boot import mark_boot_complete
from counts import require_at_most_recorded
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.image import assembly
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.wipers.btrfs import Btrfs
from staged_machine import MACHINE_ID, STORE, Machine

pytestmark = pytest.mark.requires_loop


# Modules that are not needed by a boot of a btrfs root without devices to wait for ("The import
# budget", docs/design.md).
EXPENSIVE = (
    "typing", "dataclasses", "pathlib", "argparse", "logging", "subprocess", "tomllib", "pyudev",
    "importlib.metadata", "pyroute2", "libzfs_core", "contextlib", "tempfile", "hashlib", "ssl",
    "json", "re", "enum", "functools", "collections",
)  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path) as disk:
        machine = Machine(tmp_path, disk.loop, disk.top)
        (disk.top / "root/stray").write_text("forget me")
        yield machine
        machine.next_boot()


def test_three_boots_wipe_and_persist(machine: Machine) -> None:
    for number in range(3):
        root = machine.boot()
        assert not (root / "stray").exists()
        with (root / "srv/note").open("a") as note:
            note.write(f"{number}\n")
        subprocess.run(["mount", "-o", "remount,rw", root], check=True)
        (root / "stray").write_text(f"made on day {number}")
        assert mark_boot_complete(Btrfs({}), root)
        machine.next_boot()
    assert (machine.top / "persistent/srv/note").read_text() == "0\n1\n2\n"
    old = machine.old()
    assert len(old) == 3
    strays = {name: (machine.top / "old_roots" / name / "stray").read_text() for name in old}
    assert sorted(strays.values()) == ["forget me", "made on day 0", "made on day 1"]
    assert [strays[name] for name in old if name.endswith(".keep")] == ["forget me"]


@pytest.mark.parametrize("meanwhile", ["nothing", "the store changed", "never complete"])
def test_the_next_boot_stores_a_change_that_a_power_cut_left_in_the_root(
    machine: Machine, meanwhile: str
) -> None:
    """A copied file changed, and the power failed before it was copied back."""
    stored = machine.top / "persistent/etc/adjtime"
    machine.persist.append(Copy(path="/etc/adjtime", store=STORE, source="etc/adjtime"))
    root = machine.boot()
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    (root / "etc/adjtime").write_text("first\n")
    assert mark_boot_complete(Btrfs({}), root)
    machine.next_boot()
    assert not stored.exists()
    root = machine.boot()
    assert stored.read_text() == "first\n"
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    (root / "etc/adjtime.new").write_text("in the last second\n")
    (root / "etc/adjtime.new").rename(root / "etc/adjtime")
    if meanwhile == "the store changed":
        stored.write_text("from a backup\n")
    if meanwhile != "never complete":
        assert mark_boot_complete(Btrfs({}), root)
    machine.next_boot()
    root = machine.boot()
    expected = {
        "nothing": "in the last second\n",
        "the store changed": "from a backup\n",
        "never complete": "first\n",
    }[meanwhile]
    assert stored.read_text() == expected
    assert (root / "etc/adjtime").read_text() == expected


def test_a_second_wipe_in_one_boot_does_nothing(machine: Machine) -> None:
    assert machine.stage("wipe").returncode == 0
    again = machine.stage("wipe")
    assert again.returncode == 0
    assert "already done in this boot" in again.stderr
    assert len(machine.old()) == 1


def test_wipe_no_keeps_the_root_and_still_persists(machine: Machine) -> None:
    root = machine.boot("ephemeroot.wipe=no")
    assert (root / "stray").exists()
    assert (root / "srv").is_mount()
    assert machine.old() == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("usr/lib/os-release", "has no /usr/lib/os-release"),
        ("sbin/init", "has no executable /sbin/init"),
    ],
)
def test_refuses_a_base_that_is_not_a_system(machine: Machine, path: str, message: str) -> None:
    (machine.top / "root-base" / path).unlink()
    machine.assert_kept(machine.stage("wipe"), message)


def test_refuses_an_init_that_cannot_be_executed(machine: Machine) -> None:
    (machine.top / "root-base/sbin/init").chmod(0o644)
    machine.assert_kept(machine.stage("wipe"), "has no executable /sbin/init")


def test_checks_the_init_of_the_kernel_command_line(machine: Machine) -> None:
    machine.assert_kept(machine.stage("wipe", "init=/bin/other"), "no executable /bin/other")


def test_resolves_links_of_a_base_inside_it(machine: Machine) -> None:
    base = machine.top / "root-base"
    (base / "sbin/init").rename(base / "usr/lib/the-init")
    (base / "sbin/init").symlink_to("/usr/lib/the-init")
    assert machine.stage("wipe").returncode == 0


def test_refuses_a_base_with_modules_of_another_kernel_only(machine: Machine) -> None:
    modules = machine.top / "root-base/usr/lib/modules"
    (modules / "1.2.3-other").mkdir(parents=True)
    machine.assert_kept(
        machine.stage("wipe"), f"no modules for the running kernel {os.uname().release}"
    )
    (modules / os.uname().release).mkdir()
    machine.next_boot()
    assert machine.stage("wipe").returncode == 0


def test_refuses_a_missing_base(machine: Machine) -> None:
    btrfsutil.delete_subvolume(str(machine.top / "root-base"))
    machine.assert_kept(machine.stage("wipe"), "base 'root-base' does not exist")


def test_refuses_another_root_on_the_command_line(machine: Machine) -> None:
    machine.device = "/dev/loop-control"
    machine.assert_kept(machine.stage("wipe"), "cannot be used")


def test_refuses_a_missing_root_device(machine: Machine) -> None:
    words = "root=UUID=00000000-0000-0000-0000-00000000abcd"
    done = machine.stage("wipe", words)
    assert done.returncode == 73, "there is no root that could be kept"
    assert "00000000abcd is missing (block devices found: " in done.stderr
    assert "kept" not in done.stderr
    assert "change root= on the kernel command line" in done.stderr
    assert machine.old() == []
    for policy, code in (("reboot", 71), ("poweroff", 72)):
        done = machine.stage("wipe", f"{words} ephemeroot.on-failure={policy}")
        assert done.returncode == code


def test_refuses_during_a_pending_resume(machine: Machine, tmp_path: Path) -> None:
    swap = tmp_path / "swap"
    swap.write_bytes(b"\0" * 4086 + b"S1SUSPEND\0")
    # The kernel must not write to the disk during the test: no access times, no background
    # discards, no commit half a minute later.
    quiet = "remount,noatime,nodiscard,commit=3600"
    subprocess.run(["mount", "-o", quiet, machine.top], check=True)
    btrfsutil.sync(str(machine.top))
    before = (machine.base / "image").read_bytes()
    machine.assert_kept(machine.stage("wipe", f"resume={swap}"), "hibernation image")
    # Ephemeroot has not even mounted the filesystem: mounting alone writes to it.
    assert (machine.base / "image").read_bytes() == before
    machine.next_boot()
    assert machine.stage("wipe", f"resume={swap} noresume").returncode == 0


def test_refuses_a_mounted_root(machine: Machine, tmp_path: Path) -> None:
    with mounted(machine.loop, tmp_path / "elsewhere", "subvol=root"):
        machine.assert_kept(machine.stage("wipe"), "is mounted")


def test_refuses_without_a_store(machine: Machine) -> None:
    (machine.top / "persistent/.ephemeroot-store").unlink()
    done = machine.stage("wipe")
    assert done.returncode == 73
    assert "is not a store" in done.stderr
    assert machine.old() == []
    assert (machine.top / "root/stray").exists()


def test_refuses_another_subvolume_in_place_of_the_store(machine: Machine) -> None:
    volume = machine.run / "volumes/persistent"
    volume.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "btrfs", "-o", "subvol=root-base", machine.loop, volume], check=True
    )
    done = machine.stage("wipe")
    assert done.returncode == 73
    assert "is the subvolume /root-base, but persistent is declared" in done.stderr
    assert machine.old() == []


def test_refuses_a_locked_run_directory(machine: Machine) -> None:
    machine.run.mkdir()
    with (machine.run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert machine.stage("wipe").returncode == 3
    assert machine.old() == []


def record_generation(machine: Machine, number: int) -> None:
    state = machine.top / "persistent/.ephemeroot"
    state.mkdir(mode=0o700)
    (state / "generation").write_text(f"{number}\n")


def test_an_old_image_does_not_wipe_and_binds_by_the_newer_plan(machine: Machine) -> None:
    machine.generation = 8
    machine.persist.append(Directory(path="/newer", store=STORE, source="newer"))
    newer = machine.plan().dump()
    machine.generation = 7
    machine.persist.pop()
    record_generation(machine, 8)
    (machine.top / "persistent/.ephemeroot/plan.json").write_bytes(newer)
    machine.assert_kept(machine.stage("wipe"), "is of generation 7")
    root = machine.mount_root()
    persisted = machine.stage("persist")
    assert persisted.returncode == 10
    assert "follow generation 8" in persisted.stderr
    assert (root / "newer").is_mount()


def test_an_image_of_the_same_generation_wipes(machine: Machine) -> None:
    record_generation(machine, 1)
    assert machine.stage("wipe").returncode == 0


def test_a_record_that_cannot_be_read_is_taken_to_be_newer(machine: Machine) -> None:
    record_generation(machine, 1)
    (machine.top / "persistent/.ephemeroot/generation").write_text("one")
    machine.assert_kept(machine.stage("wipe"), "cannot be read")


def test_seeds_content_of_the_previous_root(machine: Machine) -> None:
    root = machine.top / "root"
    (root / "etc/hostname").write_text("chosen-by-the-administrator\n")
    (root / "etc/machine-id").write_text(MACHINE_ID + "\n")
    (root / "srv/data").write_bytes(os.urandom(1 << 16))
    content = (root / "srv/data").read_bytes()
    fresh = machine.boot()
    assert (fresh / "etc/hostname").read_text() == "chosen-by-the-administrator\n"
    assert (fresh / "etc/machine-id").read_text() == MACHINE_ID + "\n"
    assert (fresh / "srv/data").read_bytes() == content
    assert (machine.top / "persistent/srv/data").read_bytes() == content


@pytest.mark.parametrize(
    ("initial", "content"), [("previous", "seen\n"), ("fresh", "of the base\n"), ("empty", None)]
)
def test_seeds_from_the_newest_boot_complete_root(
    machine: Machine, initial: str, content: str | None
) -> None:
    """Its content is what the administrator saw when declaring the path."""
    names = ("srv2/in a directory", "bound", "copied")
    (machine.top / "root-base/srv2").mkdir()

    def write(root: Path, text: str) -> None:
        for name in names:
            (root / name).write_text(text)

    write(machine.top / "root-base", "of the base\n")
    if content is None:
        (machine.top / "root-base/bound").unlink()  # a link would not replace it
    for text, complete in (("seen\n", True), ("of a root whose boot was never complete\n", False)):
        root = machine.boot()
        subprocess.run(["mount", "-o", "remount,rw", root], check=True)
        write(root, text)
        assert not complete or mark_boot_complete(Btrfs({}), root)
        machine.next_boot()
    values: dict[str, Any] = {"store": STORE, "initial": initial}
    machine.persist += [
        Directory(path="/srv2", source="srv2", **values),
        File(path="/bound", source="bound", **values),
        Copy(path="/copied", source="copied", **values),
    ]
    root = machine.boot()
    stored = machine.top / "persistent"
    assert (root / "srv2").is_mount()
    for name in names:
        if content is None:
            assert not (stored / name).exists(), "no file is made empty"
        else:
            assert (stored / name).read_text() == (root / name).read_text() == content
    assert (root / "bound").is_symlink() == (content is None)


def fill(top: Path) -> None:
    """Leave no room for another file."""
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={top / 'ballast'}", "bs=64k"], capture_output=True, text=True
    )
    assert "No space" in done.stderr


@contextmanager
def another_disk(machine: Machine) -> Iterator[Path]:
    """The store on another filesystem, so that it cannot share data with the root."""
    other = machine.base / "other"
    other.mkdir()
    with fresh_disk(other) as disk:
        btrfsutil.create_subvolume(str(disk.top / "persistent"))
        marker = machine.top / "persistent/.ephemeroot-store"
        shutil.copy(marker, disk.top / "persistent")
        volume = machine.run / "volumes/persistent"
        volume.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "btrfs", "-o", "subvol=persistent", disk.loop, volume], check=True
        )
        yield disk.top
        machine.leave()


def test_more_content_than_the_seed_limit_keeps_the_root(machine: Machine) -> None:
    with another_disk(machine) as top:
        for number in range(3):
            content = os.urandom(machine.seed_limit // 2)
            (machine.top / f"root/srv/{number}").write_bytes(content)
        machine.assert_kept(machine.stage("wipe"), "run 'ephemeroot adopt /srv'")
        assert not (top / "persistent/srv").exists()


def test_a_full_store_keeps_the_root(machine: Machine) -> None:
    with another_disk(machine) as top:
        content = os.urandom(machine.seed_limit)
        (machine.top / "root/srv/data").write_bytes(content)
        fill(top)
        machine.assert_kept(
            machine.stage("wipe"), "has no space for /etc (free space on its volume: "
        )
        assert (machine.top / "root/srv/data").read_bytes() == content
        assert not (top / "persistent/srv").exists()


def test_a_read_only_store_keeps_the_root(machine: Machine) -> None:
    """The kernel makes a filesystem read-only when its disk fails."""
    with another_disk(machine) as top:
        (machine.top / "root/srv/data").write_text("declared just now")
        volume = machine.run / "volumes/persistent"
        subprocess.run(["mount", "-o", "remount,ro,bind", volume], check=True)
        machine.assert_kept(machine.stage("wipe"), "is read-only: cannot store /")
        assert (machine.top / "root/srv/data").exists()
        assert not (top / "persistent/srv").exists()


def test_a_store_too_full_for_a_changed_file_keeps_the_root(machine: Machine) -> None:
    """A password was changed, the store was full, and the power failed."""
    name = "hostname"
    machine.persist[2] = Copy(path=f"/etc/{name}", store=STORE, source=f"etc/{name}")
    machine.boot()
    mark_boot_complete(Btrfs({}), machine.top / "root")
    content = os.urandom(1 << 18).hex()
    changed = machine.top / f"root/etc/{name}"
    changed.unlink()
    changed.touch()
    # A file with the attribute No_COW cannot share data with one without it.
    subprocess.run(["chattr", "+C", changed], check=True)
    changed.write_text(content)
    fill(machine.top)
    machine.next_boot()
    done = machine.stage("wipe")
    assert done.returncode == 10
    assert f"has no space for the changes of /etc/{name}" in done.stderr
    assert (machine.top / f"root/etc/{name}").read_text() == content
    (machine.top / "ballast").unlink()
    machine.leave()
    machine.boots += 1
    assert (machine.boot() / f"etc/{name}").read_text() == content


def test_content_shared_by_reflink_has_no_limit(machine: Machine) -> None:
    machine.seed_limit = 0
    (machine.top / "root/srv/big").write_bytes(os.urandom(1 << 22))
    assert machine.stage("wipe").returncode == 0
    assert (machine.top / "persistent/srv/big").stat().st_size == 1 << 22


def test_refuses_to_persist_in_a_root_that_the_wipe_did_not_make(machine: Machine) -> None:
    assert machine.stage("wipe").returncode == 0
    btrfsutil.create_snapshot(str(machine.top / "root"), str(machine.top / "impostor"))
    os.rename(machine.top / "root", machine.top / "aside")
    os.rename(machine.top / "impostor", machine.top / "root")
    root = machine.mount_root()
    done = machine.stage("persist")
    assert done.returncode == 73
    assert "is not the fresh root" in done.stderr
    assert not (root / "srv").is_mount()


def test_writes_a_report(machine: Machine) -> None:
    machine.boot()
    report = machine.report()
    assert report["wipe"]["result"] == "wiped"
    facts = report["wipe"]["wiped /"]
    assert isinstance(facts, dict)
    assert facts["retired"] == machine.old()[0]
    lines = report["persist"]["operations"]
    assert isinstance(lines, list)
    assert [line["line"] for line in lines] == [o.describe() for o in machine.plan().persist]
    assert all(line["seconds"] >= 0 for line in lines)
    assert report["persist"]["problems"] == []


BUDGET = """\
import sys
{path}
from ephemeroot.hooks.__main__ import main
code = main(sys.argv[1:])
print("modules:", *sorted(sys.modules))
sys.exit(code)
"""


def test_a_whole_boot_stays_within_the_import_budget(machine: Machine, tmp_path: Path) -> None:
    """The modules that a wipe and a persistence stage really import, with the interpreter started
    as in a boot.
    """
    package = Path(ephemeroot.__file__).parent.parent
    library = Path(btrfsutil.__file__).parent
    script = tmp_path / "budget.py"
    script.write_text(BUDGET.format(path=f"sys.path[:0] = [{str(package)!r}, {str(library)!r}]"))
    entry = ("-I", "-S", "-B", str(script))
    imported: set[str] = set()
    for stage in ("wipe", "persist"):
        done = machine.stage(stage, entry=entry)
        assert done.returncode == 0, done.stderr
        imported |= set(done.stdout.partition("modules:")[2].split())
        if stage == "wipe":
            assert "btrfsutil" in imported
            machine.mount_root()
    assert imported.isdisjoint(EXPENSIVE)


OF_THE_MACHINE = re.compile(r"\bmmap\(|\bread\(\d+<[^>]*/mountinfo>")
"""Calls that are not counted: the allocator decides about those for memory, and the number of reads
of the mount table depends on the other mounts.
"""


@pytest.mark.requires_program("strace")
@pytest.mark.parametrize("stored", [False, True], ids=["first boot", "later boots"])
def test_system_calls_of_a_declared_directory(
    machine: Machine, tmp_path: Path, stored: bool
) -> None:
    """The difference between two numbers of directories is the cost of one."""
    counted = []
    trace = tmp_path / "trace"
    for number in (10, 20):
        paths = [f"/srv-{number}-{one}" for one in range(number)]
        machine.persist = [Directory(path=path, store=STORE, source=path[1:]) for path in paths]
        for boot in (0, 1)[: 1 + stored]:
            assert machine.stage("wipe").returncode == 0
            machine.mount_root()
            tracer = ("strace", "-f", "-qq", "-y", "-e", "trace=%file,%desc", "-e", "signal=none",
                      "-o", str(trace))  # fmt: skip
            done = machine.stage("persist", tracer=tracer if boot == stored else ())
            assert done.returncode == 0, done.stderr
            machine.next_boot()
        lines = trace.read_text().splitlines()
        counted.append(sum(not OF_THE_MACHINE.search(line) for line in lines))
    each = (counted[1] - counted[0] + 9) // 10
    when = "later" if stored else "first"
    require_at_most_recorded(f"system calls of persist, a directory, {when} boot", each)


# Runs the entry point of an image, and prints which modules of the program were executed.
COUNTED = """
import sys
sys.path.insert(0, {folder!r})
import boot
code = boot.main(sys.argv[1:])
run = [name for name, module in sys.modules.items() if type(module) is type(sys)]
print("modules:", *(name for name in run if name.partition(".")[0] == "ephemeroot"))
sys.exit(code)
"""

OPENED = re.compile(r"\bopenat2?\(.* = \d+<(?!/(?:proc|sys|dev)/)([^>]*)>")


@pytest.mark.requires_program("strace")
def test_counts_of_the_stages_of_an_image(machine: Machine, tmp_path: Path) -> None:
    """The packed modules, with the plan for which they were packed: the ones that both
    stages load.
    """
    made = assembly.put_together(tmp_path / "tree", machine.plan().dump(), DracutTarget())
    assert made.reason is None
    folder = made.tree.top / "usr/lib/ephemeroot"
    script, trace = tmp_path / "counted.py", tmp_path / "trace"
    script.write_text(COUNTED.format(folder=str(folder)))
    for stage in ("wipe", "persist"):
        # The script is in a separate folder, so that Python's compiled files are not among the
        # counted ones.
        done = machine.stage(stage, entry=("-I", "-S", "-B", str(script)))
        assert done.returncode == 0, done.stderr
        modules = done.stdout.partition("modules:")[2].split()
        require_at_most_recorded(f"modules of an image's {stage}", len(modules))
        if stage == "wipe":
            machine.mount_root()
    machine.next_boot()
    lines: list[str] = []
    for stage in ("wipe", "persist"):
        tracer = ("strace", "-f", "-qq", "-y", "-e", "trace=%file,%desc", "-e", "signal=none",
                  "-o", str(trace))  # fmt: skip
        entry = ("-I", "-S", "-B", str(folder / "boot.pyc"))
        done = machine.stage(stage, entry=entry, tracer=tracer)
        assert done.returncode == 0, done.stderr
        lines = trace.read_text().splitlines()
        opened = [found[1] for line in lines if (found := OPENED.search(line))]
        code = [name for name in opened if name.endswith((".so", ".pyc", ".py", "/bundle"))]
        assert code.count(str(folder / "bundle")) == 1
        assert [name for name in code if name.endswith(".py")] == []
        require_at_most_recorded(f"files of code that an image's {stage} opens", len(code))
        if stage == "wipe":
            machine.mount_root()
    counted = sum(not OF_THE_MACHINE.search(line) for line in lines)
    require_at_most_recorded("system calls of an image's persist", counted, 0.05)
    size = (folder / "bundle").stat().st_size
    require_at_most_recorded("bytes of the bundle for btrfs", size, 0.1)
