"""Replacing whole files."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from btrfs_image import fresh_disk
from ephemeroot.linux import paths


@pytest.mark.usefixtures("private_mounts")
def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
    file = folder / "file"
    paths.write_atomically(str(file), b"old", 0o640)
    with pytest.raises(OSError, match="No space left") as caught:
        paths.write_atomically(str(file), b"x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert [entry.name for entry in folder.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"
    paths.write_atomically(str(file), b"new", 0o600)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o600)


@pytest.mark.requires_loop
@pytest.mark.usefixtures("private_mounts")
@pytest.mark.parametrize("listed_before", [False, True])
def test_lists_the_present_content_of_an_open_directory(
    tmp_path: Path, listed_before: bool
) -> None:
    """On btrfs a descriptor lists the entries that existed when it was opened."""
    with fresh_disk(tmp_path) as disk:
        directory = os.open(disk.top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number in range(3):
                if listed_before:
                    paths.names(directory)
                (disk.top / f"new{number}").touch()
                expected = {entry.name for entry in disk.top.iterdir()}
                assert set(paths.names(directory)) == expected
                with paths.entries(directory) as found:
                    assert {entry.name for entry in found} == expected
        finally:
            os.close(directory)
