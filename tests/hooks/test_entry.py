"""The entry point of the boot code: exit codes, policies, and plans that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.volumes import MountVolume, Store
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux.values import is_path, is_relative

ABSENT = "UUID=00000000-1111-2222-3333-444444444444"


def plan_without_its_store(**on_failure: str) -> Plan:
    return Plan(
        wipe=[
            MountVolume(mount_point="/persistent", name="persistent", device=ABSENT, type="btrfs"),
            Store(path="/persistent", volume="persistent", id="x"),
        ],
        persist=[Directory(path="/srv", store="/persistent", source="srv")],
        on_failure=on_failure,
    )


class Entry:
    """Runs the entry point as a separate process, in separate directories."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.plan = base / "plan.json"
        (base / "target").mkdir()

    def __call__(
        self, stage: str, cmdline: str = "", *words: str, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *prefix, sys.executable, "-P", "-m", "ephemeroot.hooks", stage, "--plan", self.plan,
                "--target", self.base / "target", "--run", self.base / "run",
                "--cmdline", cmdline, *words,
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip

    def report(self) -> dict[str, dict[str, object]]:
        content: dict[str, dict[str, object]] = json.loads(
            (self.base / "run/boot.json").read_text()
        )
        return content


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path)


def test_wrong_usage_of_the_entry_point(entry: Entry) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ephemeroot.hooks", "wipe", "--bogus"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--bogus" in done.stderr


@pytest.mark.parametrize("value", ["no", "0", "false", "off"])
def test_ephemeroot_no_does_nothing_even_without_a_plan(entry: Entry, value: str) -> None:
    for stage in ("wipe", "persist"):
        assert entry(stage, f"ephemeroot={value}").returncode == 0
    assert entry.report()["wipe"]["result"] == "nothing done: ephemeroot=no"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "is not in the format ephemeroot-plan"),
        (
            b'{"format":"ephemeroot-plan","version":2}',
            "has version 2, but this program supports version 1",
        ),
        (b'{"format":"ephemeroot-plan","version":1}', "checksum does not match"),
    ],
)
def test_reports_a_plan_that_cannot_be_used(entry: Entry, content: bytes, message: str) -> None:
    entry.plan.write_bytes(content)
    done = entry("wipe")
    assert done.returncode == 20
    assert message in done.stderr
    assert "ephemeroot apply" in done.stderr


def test_reports_a_missing_plan(entry: Entry) -> None:
    done = entry("wipe")
    assert done.returncode == 20
    assert str(entry.plan) in done.stderr


def test_detects_any_changed_byte(entry: Entry) -> None:
    content = bytearray(plan_without_its_store().dump())
    position = content.index(b"/srv")
    content[position + 1] = ord("S")
    with pytest.raises(Damaged, match="checksum"):
        plans.parse(bytes(content))


@pytest.mark.parametrize(("policy", "code"), [("emergency", 73), ("reboot", 71), ("poweroff", 72)])
def test_follows_the_policy_for_a_missing_store(entry: Entry, policy: str, code: int) -> None:
    entry.plan.write_bytes(plan_without_its_store(store=policy).dump())
    for stage in ("wipe", "persist"):
        done = entry(stage)
        assert done.returncode == code
        assert f"{ABSENT} of /persistent is missing" in done.stderr
        assert "append ephemeroot=no" in done.stderr
        assert entry.report()[stage]["policy"] == policy


def test_waits_for_a_missing_device_if_the_initramfs_does_not(entry: Entry) -> None:
    """Without systemd; otherwise the units have waited, and the stage would only wait again."""
    pytest.importorskip("pyudev")
    plan = plan_without_its_store()
    assert isinstance(plan.wipe[0], MountVolume)
    plan.wipe[0].timeout = 1
    entry.plan.write_bytes(plan.dump())
    for words, waits in ((("--wait",), True), ((), False)):
        done = entry("wipe", "", *words)
        assert done.returncode == 73
        assert ("waiting for /dev/disk/by-uuid/0000" in done.stderr) == waits
        assert f"{ABSENT} of /persistent is missing" in done.stderr


@pytest.mark.parametrize(
    ("word", "code"),
    [("emergency", 73), ("reboot", 71), ("poweroff", 72), ("keep", 10), ("continue", 10)],
)
def test_the_command_line_overrides_the_policy(entry: Entry, word: str, code: int) -> None:
    entry.plan.write_bytes(plan_without_its_store().dump())
    assert entry("wipe", f"ephemeroot.on-failure={word}").returncode == code


def test_reports_unknown_words_and_changes_nothing(entry: Entry) -> None:
    entry.plan.write_bytes(plan_without_its_store().dump())
    for word in ("ephemeroot.wype=no", "ephemeroot.wipe=perhaps"):
        done = entry("wipe", word)
        assert done.returncode == 10, "the root is kept, the boot goes on"
        assert word in done.stderr


def test_wipe_no_keeps_the_root_without_opening_devices(entry: Entry) -> None:
    entry.plan.write_bytes(plan_without_its_store().dump())
    assert entry("wipe", "ephemeroot.wipe=no").returncode == 0
    assert entry.report()["wipe"]["result"] == "root kept: ephemeroot.wipe=no"


def test_an_internal_error_leaves_the_decision_to_the_caller(entry: Entry) -> None:
    """The policy in the image decides then, see ephemeroot/image/boot.sh."""
    entry.plan.write_bytes(plan_without_its_store().dump())
    broken = (
        "import sys; from ephemeroot.hooks import __main__ as entry, wipe\n"
        "def run(stage): raise ZeroDivisionError\n"
        "wipe.run = run; sys.exit(entry.main(sys.argv[1:]))"
    )
    words = ["--plan", str(entry.plan), "--target", str(entry.base), "--run", f"{entry.base}/run"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", broken, "wipe", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
    assert entry.report()["wipe"]["result"] == "failed: a bug"


def test_the_same_plan_has_the_same_bytes() -> None:
    first = plan_without_its_store().dump()
    assert plans.parse(first).dump() == first


def test_paths_that_are_not_utf8_survive(tmp_path: Path) -> None:
    path = os.fsdecode(b"/odd\xff")
    plan = Plan(wipe=[], persist=[Directory(path=path, store="/s", source=path[1:])])
    operation = plans.parse(plan.dump()).persist[0]
    assert isinstance(operation, Directory)
    assert os.fsencode(operation.path) == b"/odd\xff"


@given(st.text())
def test_a_clean_path_is_its_own_normal_form(text: str) -> None:
    if is_path(text):
        assert os.path.normpath(text) == text
        assert text == "/" or is_relative(text[1:])


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    with pytest.raises(Damaged):
        plans.parse(raw)


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_writes_no_message_into_a_file_in_place_of_a_closed_standard_stream(
    entry: Entry, closed: str
) -> None:
    entry.plan.write_bytes(plan_without_its_store().dump())
    redirections = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed)
    done = entry("wipe", "", prefix=("sh", "-c", f'exec "$@" {redirections}', "-"))
    assert done.returncode == entry("wipe").returncode
    assert entry.report()["wipe"]["problems"]
    for path in entry.base.rglob("*"):
        if path.is_file() and path != entry.plan:
            assert "ephemeroot:" not in path.read_text().partition("{")[0], path
