"""Markers are only written to the declared volume: on a real btrfs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.config import Place
from ephemeroot.config.model import Volume
from ephemeroot.errors import Refused
from ephemeroot.plan import mounted
from loop_device import attached

pytestmark = pytest.mark.requires_loop


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A loop device with a btrfs that has the subvolumes `persistent` and `other`."""
    folder = tmp_path_factory.mktemp("disk")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    _run("mkfs.btrfs", "-q", "-M", str(image))
    with attached(image) as device:
        top = folder / "top"
        top.mkdir()
        _run("mount", str(device), str(top))
        try:
            for name in ("persistent", "other"):
                _run("btrfs", "subvolume", "create", str(top / name))
        finally:
            _run("umount", str(top))
        yield str(device)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def volume(point: Path, device: str, kind: str = "btrfs", subvolume: str = "persistent") -> Volume:
    return Volume(
        mount_point=str(point),
        device=device,
        type=kind,
        options=(f"subvol=/{subvolume}", "noatime"),
        timeout=90,
        needed_for_boot=True,
        wipe=None,
        place=Place("test"),
    )


@pytest.fixture
def point(loop: str, tmp_path: Path) -> Iterator[Path]:
    _run("mount", "-o", "subvol=persistent", loop, str(tmp_path))
    yield tmp_path
    _run("umount", str(tmp_path))


def test_accepts_the_declared_volume(loop: str, point: Path) -> None:
    mounted.require(volume(point, loop))


def test_accepts_another_name_of_the_same_device(
    loop: str, point: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("by-name") / "link"
    link.symlink_to(loop)
    mounted.require(volume(point, str(link)))


def test_refuses_another_subvolume(loop: str, point: Path) -> None:
    with pytest.raises(Refused, match="the subvolume /persistent is mounted"):
        mounted.require(volume(point, loop, subvolume="other"))


def test_refuses_another_type(loop: str, point: Path) -> None:
    with pytest.raises(Refused, match="mounted as btrfs"):
        mounted.require(volume(point, loop, kind="ext4"))


def test_refuses_another_device(
    loop: str, point: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = tmp_path_factory.mktemp("second") / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    _run("mkfs.btrfs", "-q", "-M", str(image))
    with attached(image) as second, pytest.raises(Refused, match=f"{loop} is mounted"):
        mounted.require(volume(point, str(second)))


def test_refuses_a_missing_device(point: Path) -> None:
    with pytest.raises(Refused, match="cannot open the declared device"):
        mounted.require(volume(point, "UUID=00000000-0000-4000-8000-000000000000"))


def test_refuses_an_unmounted_volume(loop: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"cannot write to the volume .*: not mounted"):
        mounted.require(volume(tmp_path, loop))
