"""Files that are replaced as a whole."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from ephemeroot.linux import paths


@pytest.mark.usefixtures("private_mounts")
def test_on_a_full_disk_the_old_file_stays_and_nothing_beside_it(tmp_path: Path) -> None:
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
