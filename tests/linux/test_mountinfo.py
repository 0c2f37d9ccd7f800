"""Parsing the kernel's mount table, with real mounts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ephemeroot.linux import mountinfo, mounts
from ephemeroot.plan import seeds

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


def test_finds_the_topmost_of_several_mounts_in_any_order(tmp_path: Path) -> None:
    def attach(mount: int) -> None:
        place = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
        mounts.attach(mount, place)
        os.close(place)
        os.close(mount)

    point = str(tmp_path)
    assert mountinfo.mounted_at(point) is None
    older, newer = (mounts.create("tmpfs", name, []) for name in ("older", "newer"))
    try:
        for mount, name in ((newer, "newer"), (older, "older")):
            attach(mount)
            found = mountinfo.mounted_at(point)
            assert found is not None
            assert found.source == name
    finally:
        for _ in range(2):
            subprocess.run(["umount", point], check=True)
    assert mountinfo.mounted_at("/") is not None


def test_finds_the_innermost_mount_of_a_path_including_the_root_directory() -> None:
    everything = mountinfo.mounts()
    points = {mount.point for mount in everything}
    assert {"/", "/proc"} <= points
    for point in points:
        topmost = mountinfo.mounted_at(point)
        assert topmost is not None
        for path in (point, f"{point.rstrip('/')}/missing", f"{point.rstrip('/')}/missing/too"):
            found = seeds.covering(Path(path), everything)
            assert found is not None
            assert found.id == topmost.id, path


@pytest.mark.parametrize(
    "name", ["plain", "a blank", "tab\there", "back\\slash", "line\nbreak", "#"]
)
def test_a_mount_point_of_any_name_is_found(tmp_path: Path, name: str) -> None:
    for place in (tmp_path / name, tmp_path / name / "inner", tmp_path / f"{name}er"):
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        for mount in mountinfo.mounts():
            found = mountinfo.mounted_at(mount.point)
            assert found is not None
            assert found.point == mount.point
        missing = tmp_path / name / "missing"
        assert mountinfo.mounted_at(str(missing)) is None
    finally:
        for place in (tmp_path / name, tmp_path / f"{name}er"):
            subprocess.run(["umount", "-R", place], check=True)
