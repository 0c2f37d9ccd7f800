"""The demo shows what it announces, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from checkout import CHECKOUT

COMMAND = [sys.executable, "-P", str(CHECKOUT / "demo")]
BOOTS = 3
SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "LC_ALL": "C.UTF-8"}


def assert_nothing_left(folder: Path) -> None:
    """The demo that ran in *folder* left no file, mount or loop device."""
    assert list(folder.iterdir()) == []
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert str(folder) not in subprocess.run(
        ["losetup", "--all"], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


def verdicts(output: str) -> dict[str, list[str]]:
    """The state of each watched file in each boot, from the demo's tables."""
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        cells = re.split(r"  +", line.strip())
        if len(cells) == 4 and cells[0].startswith("/"):
            found.setdefault(cells[0], []).append(cells[3])
    return found


def without_what_varies(output: str) -> list[str]:
    """The text of the demo without times, names made of times, IDs and paths: the part that is the
    same in every run, wherever lines are broken.
    """
    for varying, constant in (
        (r"\d+\.\d (ms|s)\b", r"… \1"),
        (r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(\.\d+)?(\.unsynced)?", "TIME"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
        (r"\b[0-9a-f]{23}…", "ID"),
        (r"/\S+/disk\.btrfs", "DISK"),
        (r"/dev/loop\d+", "DEVICE"),
    ):
        output = re.sub(varying, constant, output)
    return output.split()


def test_shows_three_boots(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\033" not in done.stdout
    assert verdicts(done.stdout) == {
        "/etc/machine-id": ["persisted, copied"] * BOOTS,
        "/etc/hostname": ["persisted, bound"] * BOOTS,
        "/var/log/messages": ["persisted, bound"] * BOOTS,
        "/home/ada/Documents/letter": ["persisted, bound"] * BOOTS,
        "/etc/motd": ["wiped, the base's again"] * BOOTS,
        "/root/todo": ["wiped"] * BOOTS,
        "/home/ada/Downloads/film": ["wiped"] * BOOTS,
        "/usr/local/bin/miner": ["wiped"] * BOOTS,
    }
    old_roots = re.findall(r"^ +old_roots/(\S+)  ", done.stdout, re.MULTILINE)
    assert len(old_roots) == len(set(old_roots)) == BOOTS
    stamp = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(\.\d+)?(\.unsynced)?"
    assert re.fullmatch(stamp + r"\.keep", old_roots[0])
    assert all(re.fullmatch(stamp, name) for name in old_roots[1:])
    assert_nothing_left(tmp_path)
    # The picture in README.md must show the output of the present demo; `make recording` draws it
    # again.
    lines = ElementTree.parse(CHECKOUT / "docs/demo.svg").iter(f"{SVG}text")
    recorded = "\n".join("".join(line.itertext()) for line in lines)
    assert without_what_varies(recorded) == without_what_varies(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminated_demo_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    demo = subprocess.Popen(
        COMMAND, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Boot 1"):
            break
    if number == signal.SIGINT:  # a terminal sends it to the whole process group
        os.killpg(demo.pid, number)
    else:
        demo.send_signal(number)
    demo.communicate(timeout=30)
    assert demo.returncode == 128 + number
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_uses_colour_on_a_terminal_only(environment: dict[str, str], no_color: str) -> None:
    ours, theirs = pty.openpty()
    demo = subprocess.Popen(COMMAND, env={**environment, "NO_COLOR": no_color}, stdout=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # EIO: the last writer has closed the terminal
            break
    os.close(ours)
    assert demo.wait() == 0
    assert (b"\033[32mpersisted" in shown) == (not no_color)
    assert (b"\033" in shown) == (not no_color)


@pytest.mark.requires_program("setpriv")
def test_reports_that_it_needs_root(environment: dict[str, str]) -> None:
    refused = subprocess.run(
        # The checkout may be in a directory that only root can search.
        ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
         "--ambient-caps=+dac_read_search", *COMMAND],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode == 1
    assert refused.stderr == "demo: needs root for loop devices and mounts: sudo make demo\n"
