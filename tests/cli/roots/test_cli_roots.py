"""``ephemeroot roots`` and ``next-boot``, the program itself, on a real btrfs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import btrfsutil
import pytest

import programs
from btrfs_image import DEFAULTS, Disk, fresh_disk, mounted
from ephemeroot.hooks.operations.volumes import MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo
from ephemeroot.wipers import marks
from programs import PROGRAM

pytestmark = pytest.mark.requires_loop

IDENTITY = "5b0f7c3e-6c4b-4f5e-8f06-0c9f5f0a2c11"

OLD = ("2024-01-01T00-00-00Z.keep", "2024-01-02T00-00-00Z", "2024-01-03T00-00-00Z")
LAST = ("2025-01-01T00-00-00Z", "2025-01-02T00-00-00Z", "2025-01-03T00-00-00Z")
RECIPE = "2024-3-7_09:05:01"
JUNE = 1748736000  # 2025-06-01T00:00:00Z
FOREIGN = "my snapshot\nof *"


class Installed:
    """A machine with an applied plan, old roots of the root and of /home, and a store."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        self.root = root
        top = disk.top
        for name in ("root", "home"):
            btrfsutil.create_subvolume(str(top / name))
        self.retire("old_roots", *OLD, *LAST, RECIPE, FOREIGN)
        self.retire("old_homes", *OLD[1:], *LAST)
        btrfsutil.create_subvolume(str(top / "old_roots" / OLD[1] / "nested"))
        (top / "old_roots/plain").mkdir()
        (root / "persistent").mkdir(parents=True)
        marker = {"version": 1, "id": IDENTITY, "path": "/persistent"}
        (root / "persistent/.ephemeroot-store").write_text(json.dumps(marker))
        (root / "etc/ephemeroot").mkdir(parents=True)
        (root / "etc/kernel").mkdir()
        (root / "etc/kernel/cmdline").write_text(f"root={disk.loop} rootflags=subvol=root ro\n")
        (root / "etc/ephemeroot/plan.json").write_bytes(self.plan().dump())

    def retire(self, directory: str, *names: str) -> None:
        (self.disk.top / directory).mkdir(exist_ok=True)
        for name in names:
            btrfsutil.create_subvolume(str(self.disk.top / directory / name))
        # The host's clock may be wrong, too, so the tests set the last time of a trusted clock
        # themselves.
        fd = os.open(self.disk.top / directory, os.O_RDONLY)
        marks.set_seen(fd, JUNE)
        os.close(fd)

    def plan(self) -> Plan:
        attribute = "ephemeroot.wipers.btrfs:Btrfs"
        return Plan(
            wipe=[
                MountVolume(mount_point="/persistent", name="persistent", device="LABEL=none",
                       type="ext4"),
                Store(path="/persistent", volume="persistent", id=IDENTITY),
                Wipe(target="/", wiper="btrfs", attribute=attribute, settings=DEFAULTS),
                Wipe(target="/home", wiper="btrfs", attribute=attribute, device=self.disk.loop,
                     subvolume="home", settings=DEFAULTS | {"old-roots": "old_homes"}),
            ],
            persist=[],
        )  # fmt: skip

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return programs.run("--root", self.root, *words)

    def old(self, directory: str = "old_roots") -> list[str]:
        return sorted(os.listdir(self.disk.top / directory))

    def entries(self, target: str = "/") -> dict[str, dict[str, Any]]:
        done = self.call("roots", "list", "--json")
        assert done.returncode == 0, done.stderr
        content = json.loads(done.stdout)
        assert (content["format"], content["version"]) == ("ephemeroot-roots", 1)
        (found,) = [h for h in content["histories"] if h["target"] == target]
        return {entry["name"]: entry for entry in found["entries"]}

    @property
    def request(self) -> Path:
        return self.root / "persistent/.ephemeroot/next-boot"


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    with fresh_disk(tmp_path) as disk:
        yield Installed(disk, tmp_path / "machine")


def test_lists_the_old_roots(installed: Installed) -> None:
    entries = installed.entries()
    assert set(entries) == {*OLD, *LAST, RECIPE, FOREIGN, "plain"}
    assert [name for name, e in entries.items() if e["due"]] == list(OLD[1:])
    assert {name: e["kind"] for name, e in entries.items() if e["kind"] != "retired"} == {
        RECIPE: "recipe", FOREIGN: "foreign", "plain": "foreign",
    }  # fmt: skip
    assert entries[OLD[0]]["keep"]
    assert entries[LAST[0]]["reason"] == "one of the newest 3"
    lines = installed.call("roots", "list").stdout.splitlines()
    assert lines[0] == "old roots of /:"
    of_root = lines[1 : lines.index("old roots of /home:")]
    (due,) = (line for line in of_root if line.split()[:1] == [OLD[1]])
    assert re.search(r" \d+ days  0 B  due: ", due)
    assert len({line.index(" days") for line in of_root if " days  " in line}) == 1, "aligned"
    assert any("my snapshot\\nof *" in line and "never deleted" in line for line in lines)
    assert "old roots of /home:" in lines


@pytest.mark.parametrize("option", ["ro", "rw"])
def test_listing_does_not_change_a_read_only_filesystem(installed: Installed, option: str) -> None:
    """A filesystem that is read-only, as after an error, stays read-only: listing needs no write
    access.
    """

    def options() -> list[list[str]]:
        mounts = [m for m in mountinfo.mounts() if m.point == str(installed.disk.top)]
        return [mount.super_options for mount in mounts]

    subprocess.run(["mount", "-o", f"remount,{option}", installed.disk.top], check=True)
    before = options()
    assert [option in one for one in before] == [True]
    assert OLD[0] in installed.entries()
    for words in (("show", LAST[0]), ("diff", *LAST[:2]), ("delete", LAST[0], "--dry-run")):
        done = installed.call("roots", *words)
        assert done.returncode == 0, done.stderr
        assert options() == before, words


def test_pruning_deletes_the_due_roots_of_all_targets(installed: Installed) -> None:
    before = installed.old()
    dry = installed.call("roots", "prune", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert installed.old() == before
    done = installed.call("roots", "prune", "--yes")
    assert done.returncode == 0, done.stderr
    assert [line.removesuffix(": not done: dry run") for line in dry.stdout.splitlines()] == (
        done.stdout.splitlines()
    )
    assert installed.old() == sorted([OLD[0], *LAST, RECIPE, FOREIGN, "plain"])
    assert installed.old("old_homes") == list(LAST)
    again = installed.call("roots", "prune", "--yes")
    assert (again.returncode, again.stdout) == (0, "no old root is due\n")


def test_refuses_to_prune_without_a_terminal_to_confirm(installed: Installed) -> None:
    before = installed.old()
    done = installed.call("roots", "prune")
    assert done.returncode == 2
    assert "add --yes" in done.stderr
    assert installed.old() == before


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("n", False), ("", False)])
def test_asks_before_it_deletes(installed: Installed, answer: str, gone: bool) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    try:
        done = subprocess.run(
            [PROGRAM, "--root", installed.root, "roots", "delete", LAST[0]],
            stdin=theirs, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Delete 1 old root permanently?" in done.stderr
    assert done.returncode == (0 if gone else 1), done.stderr
    assert (LAST[0] not in installed.old()) == gone


def test_deletes_roots_named_by_the_shell_recipe_only_on_request(installed: Installed) -> None:
    done = installed.call("roots", "prune", "--recipe-names", "--yes", "--volume", "/")
    assert done.returncode == 0, done.stderr
    assert RECIPE not in installed.old()
    assert FOREIGN in installed.old()
    assert OLD[1] in installed.old("old_homes"), "only the root's were asked for"


def test_a_mounted_old_root_stays_and_the_others_are_deleted(
    installed: Installed, tmp_path: Path
) -> None:
    where = tmp_path / "mounted"
    with mounted(installed.disk.loop, where, f"subvol=old_roots/{OLD[1]}"):
        done = installed.call("roots", "prune", "--yes")
        assert done.returncode == 10
        assert f"old root {OLD[1]} is mounted" in done.stderr
        assert installed.old()[:3] == [OLD[0], OLD[1], RECIPE]
        refused = installed.call("roots", "delete", OLD[1], "--yes")
        assert refused.returncode == 1
        assert "is mounted" in refused.stderr
    assert installed.call("roots", "prune", "--yes").returncode == 0
    assert OLD[1] not in installed.old()


def test_deletes_a_named_old_root(installed: Installed) -> None:
    kept = installed.call("roots", "delete", OLD[0], "--yes")
    assert kept.returncode == 1
    assert "is marked .keep" in kept.stderr
    foreign = installed.call("roots", "delete", FOREIGN, "--yes")
    assert foreign.returncode == 1
    assert "was not retired by ephemeroot" in foreign.stderr
    assert installed.call("roots", "delete", "nothing", "--yes").returncode == 2
    dry = installed.call("roots", "delete", LAST[2], "--dry-run")
    assert dry.stdout == f"delete old root {LAST[2]} (asked for): not done: dry run\n"
    assert LAST[2] in installed.old()
    assert installed.call("roots", "delete", LAST[2], "--yes").returncode == 0
    assert LAST[2] not in installed.old()
    assert installed.call("roots", "delete", LAST[2], "--yes").returncode == 2, "it is gone"
    assert installed.call("roots", "delete", LAST[2], "--yes", "--volume", "/home").returncode == 0
    assert LAST[2] not in installed.old("old_homes")


def test_keeps_and_unkeeps_an_old_root(installed: Installed) -> None:
    for _ in range(2):
        assert installed.call("roots", "keep", OLD[1]).returncode == 0
        assert f"{OLD[1]}.keep" in installed.old()
    installed.call("roots", "prune", "--yes")
    assert f"{OLD[1]}.keep" in installed.old()
    assert installed.call("roots", "unkeep", OLD[1]).returncode == 0
    assert installed.call("roots", "unkeep", OLD[0]).returncode == 0
    assert installed.call("roots", "prune", "--yes").returncode == 0
    assert installed.old() == sorted([*LAST, RECIPE, FOREIGN, "plain"])


def test_refuses_to_prune_while_another_run_holds_the_lock(installed: Installed) -> None:
    fd = os.open(installed.disk.top / "old_roots", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for words in (["prune", "--yes"], ["list"], ["delete", LAST[0], "--yes"]):
            assert installed.call("roots", *words).returncode == 3
    finally:
        os.close(fd)
    assert OLD[1] in installed.old()


def test_no_mount_remains(installed: Installed) -> None:
    installed.call("roots", "list")
    text = Path("/proc/self/mountinfo").read_text()
    points = [line.split()[4] for line in text.splitlines() if installed.disk.loop in line]
    assert points == [str(installed.disk.top)]


def test_roots_without_an_applied_plan(installed: Installed) -> None:
    (installed.root / "etc/ephemeroot/plan.json").unlink()
    for words in (["roots", "list"], ["roots", "prune", "--yes"], ["next-boot", "keep"]):
        done = installed.call(*words)
        assert done.returncode == 2
        assert "ephemeroot apply" in done.stderr


def status(installed: Installed) -> Any:
    content = json.loads(installed.call("next-boot", "--json").stdout)
    assert content["format"] == "ephemeroot-next-boot-status"
    return content["request"], content["root"]


def test_next_boot_makes_shows_and_clears_a_request(installed: Installed) -> None:
    assert "no request" in installed.call("next-boot").stdout
    assert installed.call("next-boot", "keep", "--dry-run").returncode == 0
    assert not installed.request.exists()
    assert installed.call("next-boot", "keep").returncode == 0
    assert status(installed) == ("keep", None)
    assert installed.request.stat().st_mode & 0o777 == 0o600
    assert installed.call("next-boot", "root", LAST[1]).returncode == 0
    assert status(installed) == ("root", LAST[1])
    assert LAST[1] in installed.call("next-boot").stdout
    assert installed.call("next-boot", "wipe").returncode == 0
    assert status(installed) == ("wipe", None)
    assert installed.call("next-boot", "--clear").returncode == 0
    assert status(installed) == (None, None)
    assert installed.call("next-boot", "--clear").returncode == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["root"], 2), (["keep", "x"], 2), (["root", "2020-01-01T00-00-00Z"], 2),
        (["root", "plain"], 1), (["erase"], 2), (["keep", "--clear"], 2),
    ],
)  # fmt: skip
def test_refuses_an_invalid_request(installed: Installed, words: list[str], code: int) -> None:
    assert installed.call("next-boot", *words).returncode == code
    assert not installed.request.exists()


def test_a_request_needs_its_store(installed: Installed) -> None:
    (installed.root / "persistent/.ephemeroot-store").unlink()
    done = installed.call("next-boot", "keep")
    assert done.returncode == 1
    assert "to see whether its volume is mounted" in done.stderr
    assert not installed.request.exists()


def test_reports_a_damaged_request_and_can_clear_it(installed: Installed) -> None:
    assert installed.call("next-boot", "keep").returncode == 0
    installed.request.write_text("{")
    assert installed.call("next-boot").returncode == 1
    assert installed.call("next-boot", "--clear").returncode == 0
    assert status(installed) == (None, None)
