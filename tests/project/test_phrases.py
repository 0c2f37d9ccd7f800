"""The lint that counts puzzling phrases: what it finds and ignores, and when it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import CHECKOUT

PUZZLING = {
    "the root that was": "The root that was is kept under its time.",
    "is no …": "/dev/vda is no btrfs",
    "nobody, somebody": "nobody can be asked",
    "what is, what was": "what was declared stays",
    "is so already": "/etc/fstab: is so already",
    "lies in": "the store lies in /persistent",
    "play the next boot": "play the next boot on a throw-away root",
    "X counts": "the newer one has the last word",
    "carry over, catch up": "its content is carried over",
    "out again": "# Out again",
    "that was.": "the store keeps the file as it was.",
    "be none": "the root may be none",
    "be no …": "it can be no subvolume",
    "nothing of": "an image with nothing of ephemeroot",
    "nor is it": "so is a symbolic link",
    "what follows": "what follows is skipped",
    "already so": "a file that is gone already",
    "in again": "the root is made anew",
    ", for it": "it is refused, for it persists",
    "is there": "wipe though the image is there",
    "counts as": "of two values the last one counts.",
    "mend, told": "mend it and run it again",
    "go on": "the boot goes on",
    "by us": "it is not mounted by us",
    "archaic": "hence the checks",
    "at work": "the mount ended without a word",
}
PLAIN = (
    "There is no store at /persistent, and the device is no longer there.",
    "The previous root is kept under the time of its retirement.",
    "cannot create snapshot of 'root-base': not a subvolume",
    "Show what would be done, for each path, and print it again.",
    "Compare the counts; the lower counts are in counts.json.",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An empty checkout whose ceilings are all zero."""
    for folder in ("ephemeroot", "hooks", "wipers", "man", "docs", "tools", "tests", "systemd"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text("")
    shutil.copy(CHECKOUT / "tools/phrases.py", tmp_path / "tools")
    phrases(tmp_path, "--lower")
    return tmp_path


def phrases(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "tools/phrases.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("kind", PUZZLING)
def test_fails_when_a_phrase_is_above_its_ceiling(checkout: Path, kind: str) -> None:
    text = PUZZLING[kind]
    for name in ("README.md", "docs/a.md", "man/a.8", "SECURITY.md"):
        (checkout / name).write_text(f"{text}\n")
    (checkout / "hooks/a.py").write_text(f"MESSAGE = {text!r}\n# {text}\n")
    (checkout / "systemd/a.service").write_text(f"Description={text}\n")
    (checkout / "tests/test_a.py").write_text(f'"""{text}"""\n')
    done = phrases(checkout)
    assert done.returncode == 1
    complaints = done.stdout.splitlines()[:-1]
    assert complaints == [
        f"{place}: '{kind}' 1 times, at most 0 are allowed"
        for place in (
            "messages", "manual", "README", "docs", "project documents", "units and shell",
            "comments", "comments of tests",
        )
    ]  # fmt: skip


def test_every_kind_of_phrase_has_an_example(checkout: Path) -> None:
    assert set(json.loads((checkout / "tools/phrases.json").read_text())["docs"]) == set(PUZZLING)


def test_finds_a_phrase_in_the_name_of_a_test(checkout: Path) -> None:
    (checkout / "tests/test_a.py").write_text("def test_a_file_is_no_store() -> None: ...\n")
    shown = phrases(checkout, "--show").stdout
    assert shown == "tests/test_a.py:1: is no (is no …)\n"


def test_finds_a_phrase_across_two_lines(checkout: Path) -> None:
    (checkout / "docs/a.md").write_text("It is about what\nwas declared.\n")
    assert phrases(checkout).returncode == 1
    assert phrases(checkout, "--show").stdout == "docs/a.md:1: what was (what is, what was)\n"


def test_ignores_plain_english_and_code(checkout: Path) -> None:
    (checkout / "docs/a.md").write_text("\n\n".join(PLAIN) + "\n")
    (checkout / "hooks/a.py").write_text("def is_no_store() -> None:\n    nobody = 1  # a number\n")
    assert phrases(checkout).returncode == 0


def test_a_ceiling_falls_and_never_rises(checkout: Path) -> None:
    ceilings = checkout / "tools/phrases.json"
    (checkout / "docs/a.md").write_text("nobody\n")
    phrases(checkout, "--lower")
    assert json.loads(ceilings.read_text())["docs"]["nobody, somebody"] == 0
    raised = json.loads(ceilings.read_text())
    raised["docs"]["nobody, somebody"] = 5
    ceilings.write_text(json.dumps(raised))
    phrases(checkout, "--lower")
    assert json.loads(ceilings.read_text())["docs"]["nobody, somebody"] == 1
