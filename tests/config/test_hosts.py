"""One set of files for many hosts, and systems other than the running one."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ephemeroot.cli import main
from ephemeroot.config import Machine, read
from ephemeroot.errors import Misconfigured
from machine_tree import MAIN, SOUND, MachineTree

LOCAL = "etc/ephemeroot/conf.d"
ID = "ffffffffffffffffffffffffffffffff"


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    """A set of files: for all machines, for the kiosks, for the laboratory, for one machine."""
    tree = MachineTree(tmp_path, SOUND.replace("[root.btrfs]", "[root.btrfs]\nkeep-days = 9"))
    files = {
        "10-kiosk": '[match]\nhost-name = "kiosk-*"\n[root.btrfs]\nkeep-days = 1\n',
        "20-lab": (
            '[match]\nhost-name = ["lab-*", "bench"]\n'
            '[persistence."/persistent"]\ndirectories = ["/srv/results"]\n'
        ),
        "30-odd": f'[match]\nmachine-id = "{ID}"\n[on-failure]\nwipe = "poweroff"\n',
        "40-wrong": '[match]\nhost-name = "broken"\n[rooot]\n',
    }
    for name, text in files.items():
        tree.write(f"{LOCAL}/{name}.toml", text)
    return tree


def run(tree: MachineTree, *words: str) -> int:
    return main([words[0], "--root", str(tree.path), *words[1:]])


def plan(tree: MachineTree, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(tree, "plan", *words) == 0
    return capsys.readouterr().out


def test_lists_which_files_each_host_uses(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tree, "check") == 0
    drop_ins = [tree.show(f"{LOCAL}/{n}.toml") for n in ("20-lab", "30-odd", "40-wrong")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == [
        "for kiosk-7 (0123456789abcdef0123456789abcdef):",
        f"  {tree.show()}",
        f"  {tree.show(f'{LOCAL}/10-kiosk.toml')}",
        "for other machines:",
        *(f"  {path}" for path in drop_ins),
    ]
    assert lines[-1] == "2 files checked: no problems"


def test_prints_the_plan_of_another_host(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = plan(tree, capsys)
    assert "/srv/results" not in mine
    assert "for kiosk-7 " in mine
    theirs = plan(tree, capsys, "--host", "LAB-3")
    assert "for LAB-3 (an unknown machine id):" in theirs
    line = next(line for line in theirs.splitlines() if "directory /srv/results" in line)
    assert f"{tree.show(f'{LOCAL}/20-lab.toml')}:4" in line
    assert "set by drop-ins" not in theirs
    odd = json.loads(plan(tree, capsys, "--host", "bench", "--machine-id", ID, "--json"))
    assert odd["host"] == "bench"
    assert odd["on-failure"]["wipe"] == "poweroff"
    assert any(step.get("path") == "/srv/results" for step in odd["persist"])


def test_an_id_alone_is_not_a_known_host(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(plan(tree, capsys, "--machine-id", ID, "--json"))
    assert (shown["host"], shown["on-failure"]["wipe"]) == ("", "poweroff")


def test_names_the_file_of_each_value(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write("usr/lib/ephemeroot/conf.d/05-site.toml", "seed-limit = 7\n")
    shown = plan(tree, capsys).splitlines()
    begin = shown.index("set by drop-ins:")
    drop_in, vendor = f"{LOCAL}/10-kiosk.toml", "usr/lib/ephemeroot/conf.d/05-site.toml"
    assert [line.split() for line in shown[begin + 1 :]] == [
        ["root.btrfs.keep-days", f"{tree.show(drop_in)}:4,", "instead", "of", f"{tree.show()}:4"],
        ["seed-limit", f"{tree.show(vendor)}:1"],
    ]


def test_finds_mistakes_of_another_host(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tree, "check", "--host", "broken") == 2
    assert "unknown key `rooot`" in capsys.readouterr().out


def test_prints_hosts_as_json(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tree, "check", "--host", "lab-1", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["host"], content["machine-id"]) == ("lab-1", None)
    assert [Path(p).name for p in content["files"]] == ["ephemeroot.toml", "20-lab.toml"]
    assert len(content["for-other-machines"]) == 3


def test_facts_of_this_machine_are_not_used_for_another_host(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    """The booted root, /boot and the applied plan say nothing about another host."""
    tree.write("etc/kernel/cmdline", "root=/dev/sdz rootflags=subvol=elsewhere\n")
    tree.write("boot/vmlinuz", "")
    tree.write("etc/ephemeroot/plan.json", "damaged")
    (tree.path / "persistent/.ephemeroot-store").unlink()
    main_file = (tree.path / MAIN).read_text()
    tree.write(MAIN, main_file.replace("[root.btrfs]", '[root.btrfs]\nsubvolume = "root"'))
    assert run(tree, "check") == 2
    mine = capsys.readouterr().out
    for word in (
        "boots the subvolume",
        "boot loader is on the wiped root",
        "cannot read",
        "marker",
    ):
        assert word in mine
    assert run(tree, "check", "--host", "lab-2") == 0
    theirs = capsys.readouterr().out
    for word in ("subvolume", "boot loader", "cannot read", "marker"):
        assert word not in theirs


def test_the_own_name_is_not_another_host(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = tree.machine
    assert machine.as_another("kiosk-7", None) is machine
    assert machine.as_another(None, machine.machine_id) is machine
    assert machine.as_another(None, None) is machine
    assert machine.as_another("kiosk-7", ID).another
    assert run(tree, "check", "--machine-id", "0123") == 2
    assert "is not a machine id" in capsys.readouterr().err


def test_a_host_without_a_drop_in(tree: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    shown = plan(tree, capsys, "--host", "lonely")
    assert "keep-days" not in shown
    assert "for lonely (an unknown machine id):" in shown


# Systems that are being built


def test_reads_everything_from_the_system_that_is_being_built(tmp_path: Path) -> None:
    """Accounts, fstab, name and ID come from its files, not from the machine that builds it."""
    tree = MachineTree(tmp_path, SOUND.replace('"/var/log"]', '{ directory = "/srv/x", user = '
                                               '"colord", group = "colord" }]'))  # fmt: skip
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\ncolord:x:777:1::/:/bin/false\n")
    tree.write("etc/group", "root:x:0:\ncolord:x:888:\n")
    found = next(o for o in tree.plan().to_json()["persist"]  # type: ignore[attr-defined]
                 if o.get("path") == "/srv/x")  # fmt: skip
    assert (found["user"], found["group"]) == (777, 888)
    machine = tree.machine
    assert machine.command_lines == ()
    assert (machine.host_name, machine.memory, machine.mounted) == ("kiosk-7", 0, frozenset())
    assert [line.mount_point for line in machine.fstab] == ["/"]
    assert machine.machine_id == "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("hostname", "os_release", "expected"),
    [
        ("# a comment\n\nlab-7.example.net\nsecond\n", "", "lab-7.example.net"),
        ("", 'NAME=x\nDEFAULT_HOSTNAME="kiosk"\n', "kiosk"),
        ("localhost\n", 'NAME=x\nDEFAULT_HOSTNAME="kiosk"\n', "kiosk"),
        (None, "NAME=x\n", "localhost"),
        (None, None, "localhost"),
    ],
)
def test_finds_the_name_of_a_system_that_is_being_built(
    tmp_path: Path, hostname: str | None, os_release: str | None, expected: str
) -> None:
    tree = MachineTree(tmp_path)
    (tmp_path / "etc/hostname").unlink()
    if hostname is not None:
        tree.write("etc/hostname", hostname)
    if os_release is not None:
        tree.write("usr/lib/os-release", os_release)
    assert tree.machine.host_name == expected


def test_finds_the_name_in_the_file_of_openrc(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    (tmp_path / "etc/hostname").unlink()
    tree.write("etc/conf.d/hostname", '# the name\nhostname="kiosk-9"\n')
    assert tree.machine.host_name == "kiosk-9"


@pytest.mark.parametrize("live", ["kiosk-7", "KIOSK-7", "dhcp-10-0-0-7", "localhost"])
@pytest.mark.parametrize("pattern", ["kiosk-*", "dhcp-*", "*"])
def test_uses_the_static_name_and_warns_of_a_different_live_one(
    tmp_path: Path, live: str, pattern: str
) -> None:
    tree = MachineTree(tmp_path)
    tree.write("etc/hostname", "kiosk-7\n")
    drop_in = tree.write(
        "etc/ephemeroot/conf.d/10.toml",
        f'[match]\nhost-name = "{pattern}"\n'
        '[persistence."/persistent"]\ndirectories = ["/srv/pos-data"]\n',
    )
    machine = replace(tree.machine, live_name=live)
    configuration = read(machine)
    used = str(drop_in) in configuration.files
    assert used == fnmatch.fnmatchcase("kiosk-7", pattern)
    warned = [p for p in configuration.problems if live in p.reason and "kiosk-7" in p.reason]
    assert bool(warned) == (used != fnmatch.fnmatchcase(live.lower(), pattern))


@pytest.mark.requires_root
@pytest.mark.requires_program("unshare")
@pytest.mark.parametrize(
    ("written", "live", "name"),
    [
        ("kiosk-7\n", "dhcp-10-0-0-7", "kiosk-7"),
        ("# by the installer\n\n  kiosk-7  \n", "dhcp-10-0-0-7", "kiosk-7"),
        ("kiosk-????\n", "kiosk-1f0a", "kiosk-1f0a"),
        ("kiosk-????\n", "dhcp-10-0-0-7", "kiosk-????"),
        ("localhost\n", "dhcp-10-0-0-7", "dhcp-10-0-0-7"),
        ("", "dhcp-10-0-0-7", "dhcp-10-0-0-7"),
        (None, "dhcp-10-0-0-7", "dhcp-10-0-0-7"),
    ],
)
def test_a_name_from_the_network_does_not_change_persistent_paths(
    tmp_path: Path, written: str | None, live: str, name: str
) -> None:
    """As after DHCP has named the machine; the test sets the name with hostname(1)."""
    if written is not None:
        (tmp_path / "hostname").write_text(written)
    script = (
        "set -e; mount -t tmpfs none /etc; cp $2/hostname /etc/ 2>/dev/null || true; hostname $3; "
        'exec "$1" -P -c "from ephemeroot.config import Machine as M; m = M.of(); '
        'print(m.host_name, m.live_name)"'
    )
    words = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script, "sh"]
    done = subprocess.run([*words, sys.executable, tmp_path, live], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{name} {live}\n", "")


def test_links_in_the_system_do_not_lead_out_of_it(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    (tmp_path / "etc/hostname").unlink()
    (tmp_path / "etc/hostname").symlink_to("/etc/name-of-mine")
    tree.write("etc/name-of-mine", "inside\n")
    assert tree.machine.host_name == "inside"


def test_refuses_a_root_that_is_not_a_directory() -> None:
    with pytest.raises(Misconfigured, match="is not a directory"):
        Machine.of("/nonexistent")


@pytest.mark.requires_root
def test_in_a_chroot_the_running_kernel_is_ignored(tmp_path: Path) -> None:
    """An installer runs `apply` in a chroot: the kernel's command line and host name belong to the
    installer.
    """
    tree = MachineTree(tmp_path)
    script = (
        "import os, sys\nfrom ephemeroot.config import Machine, read\n"
        "import ephemeroot.config.examination\n"
        "assert Machine.of().command_lines and Machine.of().live_name == os.uname().nodename\n"
        f"os.chroot({str(tree.path)!r})\nos.chdir('/')\nmachine = Machine.of()\n"
        "print(machine.host_name, machine.command_lines, machine.memory)\n"
    )
    (tmp_path / "proc").mkdir()
    # Start a first process that the program may inspect, whatever the first process of this host
    # is.
    inside = (
        'mount -t proc proc "$1/proc" && mount -t proc proc /proc && exec "$2" -P -c "$3"; exit 9'
    )
    words = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", f"({inside})", "sh"]
    done = subprocess.run(
        [*words, str(tmp_path), sys.executable, script], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("kiosk-7 () 0\n", "")
