"""``ephemeroot diff`` and ``roots diff``: the program itself, on a real btrfs."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import btrfsutil
import pytest

from living_machine import DAY, NOON, LivingMachine, living_machine
from machine_tree import SOUND

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    with living_machine(tmp_path) as made:
        made.boot()
        yield made


def found(content: Any) -> dict[str, str]:
    return {d["path"]: d["change"] for d in content["differences"]}


def test_a_fresh_root_loses_nothing(machine: LivingMachine) -> None:
    content = machine.json("diff")
    assert (content["format"], content["version"]) == ("ephemeroot-diff", 1)
    assert content["against"] == "fresh"
    assert content["differences"] == []
    assert machine.json("diff", "--against", "base")["differences"] == []
    assert "no non-persistent changes on /" in machine.call("diff").stdout


def spoil(root: Path) -> None:
    """Make every kind of change to a root."""
    (root / "etc/hostname").write_text("mine\n")
    (root / "etc/new").write_text("x" * 1500)
    (root / "etc/passwd").write_text("persisted by copying\n")
    (root / "var/log/syslog").write_text("persisted")
    (root / "srv/data/kept/x").write_text("persisted")
    (root / "srv/data/lost").write_text("beside what is persisted")
    (root / "opt/app/data").mkdir(parents=True)
    (root / "opt/app/data/one").write_bytes(bytes(4096))
    (root / "opt/app/two").symlink_to("one")
    (root / "usr/bin/link").unlink()
    (root / "usr/bin/link").symlink_to("elsewhere")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "home/u").rmdir()
    (root / "tmp").mkdir()
    (root / "tmp/noise").touch()
    (root / "home/v/.cache/x").mkdir(parents=True)


SPOILT = {
    "/etc/hostname": "changed",
    "/etc/new": "added",
    "/srv/data/lost": "added",
    "/opt/app": "added",
    "/usr/bin/link": "changed",
    "/usr/bin/tool": "changed",
    "/home/u": "deleted",
    "/home/v": "added",
}


@pytest.mark.parametrize("against", ["fresh", "base"])
def test_shows_files_that_would_be_lost(machine: LivingMachine, against: str) -> None:
    spoil(machine.root)
    content = machine.json("diff", "--against", against)
    assert found(content) == SPOILT
    by_path = {d["path"]: d for d in content["differences"]}
    assert by_path["/opt/app"]["size"] == 4096
    assert by_path["/opt/app"]["entries"] == 3
    assert by_path["/etc/new"]["size"] == 1500
    assert by_path["/usr/bin/tool"]["what"] == ["mode"]
    assert by_path["/usr/bin/link"]["what"] == ["target"]
    assert by_path["/etc/hostname"]["what"] == ["content"]


def test_the_quick_search_finds_the_same_files_as_a_walk(machine: LivingMachine) -> None:
    """Files with several names, moved files, files in subvolumes, files with an old time."""
    root = machine.root
    spoil(root)
    (root / "etc/new").rename(root / "usr/bin/moved")
    os.link(root / "usr/bin/tool", root / "etc/second-name")
    status = (root / "etc/hostname").stat()
    (root / "etc/hostname").write_text("BASE\n")
    os.utime(root / "etc/hostname", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.setxattr(root / "usr", "user.note", b"x")
    btrfsutil.create_subvolume(str(root / "etc/kernel/nested"))
    (root / "etc/kernel/nested/deep").mkdir()
    (root / "etc/ephemeroot/plan.json").touch()
    quick = machine.json("diff")
    walked = machine.json("diff", "--content")
    assert quick["differences"] == walked["differences"]
    paths = found(quick)
    assert {"/usr/bin/moved", "/etc/second-name", "/usr", "/etc/kernel/nested"} <= paths.keys()
    assert paths["/etc/hostname"] == "changed"
    assert "/etc/ephemeroot/plan.json" not in paths, "touched, and the same"


def test_shows_a_subvolume_in_place_of_a_directory(machine: LivingMachine) -> None:
    root = machine.root
    (root / "home/u").rmdir()
    btrfsutil.create_subvolume(str(root / "home/u"))
    (root / "home/u").chmod(0o755)
    (root / "home/u/inside").touch()
    assert found(machine.json("diff")) == {"/home/u/inside": "added"}


def test_exclusions_and_the_option_all(machine: LivingMachine) -> None:
    spoil(machine.root)
    everything = found(machine.json("diff", "--all"))
    assert everything["/tmp"] == "added" if "/tmp" in everything else "/tmp/noise" in everything
    assert "/tmp/noise" not in found(machine.json("diff"))
    some = found(machine.json("diff", "--exclude", "/opt/**", "--exclude", "host*"))
    assert set(SPOILT) - set(some) == {"/opt/app", "/etc/hostname"}
    bad = machine.call("diff", "--exclude", "opt/x")
    assert bad.returncode == 2
    assert "write '/opt/x'" in bad.stderr


def test_prints_lines_for_the_configuration(machine: LivingMachine) -> None:
    spoil(machine.root)
    (machine.root / "etc/shadow").touch()
    (machine.root / 'etc/quote"\n').touch()
    (machine.root / os.fsdecode(b"etc/\xff")).touch()
    os.mkfifo(machine.root / "etc/fifo")
    done = machine.call("diff", "--lines")
    assert done.returncode == 0, done.stderr
    table = tomllib.loads(done.stdout)["persistence"]["/persistent"]
    assert table["directories"] == ["/home/v", "/opt/app"]
    assert {"file": "/etc/shadow", "method": "copy"} in table["files"]
    copied = {f["file"] for f in table["files"] if isinstance(f, dict)}
    assert {"/etc/new", '/etc/quote"\n', "/etc/shadow"} <= copied
    assert "/srv/data/lost" in table["files"]
    assert "not UTF-8" in done.stdout
    assert "special" in done.stdout
    shown = machine.call("diff").stdout
    assert done.stdout in shown


def test_does_not_propose_declared_paths_that_wait_for_apply(machine: LivingMachine) -> None:
    spoil(machine.root)
    before = machine.call("diff", "--lines").stdout
    assert '"/opt/app"' in before
    configuration = machine.root / "etc/ephemeroot/ephemeroot.toml"
    configuration.write_text(SOUND.replace('"/var/log"', '"/var/log", "/opt/app"'))
    done = machine.call("diff")
    assert done.returncode == 0, done.stderr
    assert (
        "declared but not applied (run 'ephemeroot apply'): /etc/ephemeroot, /opt/app\n"
        in done.stdout
    )
    assert '"/opt/app"' not in machine.call("diff", "--lines").stdout


def test_formats_of_the_output(machine: LivingMachine) -> None:
    spoil(machine.root)
    for number in range(50):
        (machine.root / f"etc/many{number:02}").touch()
    shown = machine.call("diff").stdout
    lines = shown.splitlines()
    assert lines[0] == "non-persistent changes on /, compared with the fresh root of this boot:"
    assert "/etc" in lines
    assert "  +  app/  4.0 KiB  3 entries" in lines
    assert "  and 32 more" in shown
    assert "many49" in machine.call("diff", "--long").stdout
    assert "\x1b[" not in shown
    assert any(line.endswith("3 changed (4.9 KiB), 1 deleted (0 B)") for line in lines), shown


def test_says_when_the_base_is_newer_than_the_root(machine: LivingMachine) -> None:
    spoil(machine.root)
    top = machine.disk.top
    os.rename(top / "base", top / "older")
    btrfsutil.create_snapshot(str(top / "older"), str(top / "base"))
    (top / "base/etc/upgraded").touch()
    assert found(machine.json("diff")) == SPOILT, "the older one is still there"
    assert found(machine.json("diff", "--against", "base")) == {
        **SPOILT,
        "/etc/upgraded": "deleted",
    }
    btrfsutil.delete_subvolume(str(top / "older"))
    done = machine.call("diff", "--json")
    assert done.returncode == 0
    assert "the base is compared instead" in done.stderr
    assert '"against": "base"' in done.stdout
    assert machine.call("diff", "--against", "fresh").returncode == 1


def test_compares_old_roots(machine: LivingMachine) -> None:
    spoil(machine.root)
    machine.boot(NOON + DAY)
    (machine.root / "etc/new").write_text("another")
    (second,) = machine.old()
    assert found(machine.json("diff", "--against", second))["/etc/new"] == "changed"
    machine.boot(NOON + 2 * DAY)
    first, second = machine.old()
    content = machine.json("roots", "diff", first, second)
    assert content["format"] == "ephemeroot-roots-diff"
    assert (content["old"], content["new"]) == (first, second)
    paths = found(content)
    assert paths["/etc/new"] == "changed"
    assert paths["/opt/app"] == "deleted"
    assert paths["/home/u"] == "added"
    assert "/srv/data/kept" not in paths
    live = found(machine.json("roots", "diff", second, "--live"))
    assert live == {"/etc/new": "deleted"}
    assert live == found(machine.json("roots", "diff", second))
    assert "- new" in machine.call("roots", "diff", second).stdout.replace("  ", " ")
    assert machine.call("roots", "diff", "2020-01-01T00-00-00Z").returncode == 2


def test_no_mount_remains(machine: LivingMachine) -> None:
    before = subprocess.run(["findmnt", "-rn"], capture_output=True, text=True).stdout
    machine.call("diff")
    machine.call("diff", "--against", "base")
    assert subprocess.run(["findmnt", "-rn"], capture_output=True, text=True).stdout == before


MOTD = "run/motd.d/ephemeroot"


def test_prints_a_line_at_login_about_files_that_would_be_lost(machine: LivingMachine) -> None:
    spoil(machine.root)
    (machine.root / "var/cache").mkdir(parents=True, exist_ok=True)
    (machine.root / "var/cache/noise").write_bytes(bytes(1 << 20))
    dry = machine.call("unsaved", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert not (machine.root / MOTD).exists()
    done = machine.call("unsaved")
    assert done.stdout == dry.stdout
    assert (machine.root / MOTD).read_text() == done.stdout
    assert (machine.root / MOTD).stat().st_mode & 0o777 == 0o644
    assert done.stdout.startswith("ephemeroot: the next boot forgets ")
    assert done.stdout.count("\n") == 1
    assert "noise" not in done.stdout
    content = machine.json("unsaved")
    found = machine.json("diff")["differences"]
    assert content["differences"] == found
    largest = max(found, key=lambda one: one["size"])["path"]
    assert f": {largest}, " in content["line"]
    machine.boot(NOON + 3 * DAY)
    again = machine.call("unsaved")
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    assert not (machine.root / MOTD).exists()
