"""File system checks without systemd: the real programs, on a sound and on a damaged file
system.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ephemeroot.errors import StoreMissing
from ephemeroot.hooks.guards import fsck

pytestmark = pytest.mark.requires_program("mkfs.ext4")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", path], check=True)
    return path


def debugfs(image: Path, command: str) -> None:
    subprocess.run(["debugfs", "-w", "-R", command, image], check=True, capture_output=True)


def test_a_sound_file_system_passes(image: Path) -> None:
    assert fsck.require_sound("ext4", str(image)) == "checked"


def test_corrects_correctable_errors(image: Path) -> None:
    debugfs(image, "ssv free_blocks_count 1")
    debugfs(image, "ssv state 2")
    assert fsck.require_sound("ext4", str(image)) == "checked"
    again = subprocess.run(["e2fsck", "-fn", image], capture_output=True)
    assert again.returncode == 0


def test_reports_uncorrected_errors(image: Path) -> None:
    debugfs(image, "clri <2>")
    debugfs(image, "ssv state 2")
    with pytest.raises(StoreMissing, match=r"errors on .* that it could not correct"):
        fsck.require_sound("ext4", str(image))


def test_skips_types_without_a_check(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    assert fsck.require_sound("btrfs", str(image)) == "unchecked"
    assert fsck.require_sound("ext4", str(image), str(tmp_path)) == "unchecked"
    assert image.read_bytes() == before
