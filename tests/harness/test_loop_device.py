"""A loop device belongs to the process that made it, whatever other processes do with theirs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from loop_device import LoopDevice, attached

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"0" * 4096 + b"1" * 4096 + bytes(1 << 20))
    return path


def backing(path: Path) -> str:
    try:
        return Path("/sys/block", path.name, "loop/backing_file").read_text().strip()
    except OSError:
        return ""


def test_the_device_shows_the_image_from_its_offset(image: Path) -> None:
    with attached(image, 4096) as path:
        assert path.read_bytes()[:4096] == b"1" * 4096
        assert backing(path) == str(image)


def test_is_released_when_it_is_closed(image: Path) -> None:
    device = LoopDevice(image)
    device.close()
    device.close()
    assert backing(device.path) != str(image)


def test_the_device_exists_as_long_as_its_mount(image: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    point = tmp_path / "mounted"
    point.mkdir()
    with attached(image) as path:
        subprocess.run(["mount", path, point], check=True)
    assert backing(path) == str(image)
    subprocess.run(["umount", point], check=True)


def test_the_number_of_an_open_device_is_not_reused(image: Path, tmp_path: Path) -> None:
    """In whatever order processes attach and detach, each sees its own image."""
    children = []
    for number in range(8):
        own = tmp_path / str(number)
        own.write_bytes(bytes([number]) * (1 << 20))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(50):
                    with attached(own) as path:
                        if path.read_bytes()[:4096] != bytes([number]) * 4096:
                            os._exit(2)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    with attached(image) as path:
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert backing(path) == str(image)
    assert codes == [0] * len(children)


@contextmanager
def mounted(device: Path, point: Path) -> Iterator[None]:
    done = subprocess.run(["mount", device, point], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield
    subprocess.run(["umount", point], check=True)


def test_a_reused_number_is_not_taken_for_an_earlier_btrfs(tmp_path: Path) -> None:
    """The kernel remembers the devices of a btrfs with several, and would mistake the next
    filesystem on such a number for the earlier one as soon as that one's UUID is mounted elsewhere.
    """
    copies = [tmp_path / "first", tmp_path / "second"]
    for path in (*copies, *(members := [tmp_path / f"member{number}" for number in range(6)])):
        path.touch()
        os.truncate(path, 128 << 20)
    mkfs = ["mkfs.btrfs", "-q", "-U", "54d9ae6c-9b7b-4f1e-9d2c-0a3c1d6f8f11"]
    for path in copies:
        subprocess.run([*mkfs, path], check=True)
    points = [tmp_path / "point", tmp_path / "other point"]
    for point in points:
        point.mkdir()
    with ExitStack() as stack:
        first = stack.enter_context(attached(copies[0]))
        stack.enter_context(mounted(first, points[0]))
        with ExitStack() as others:
            devices = [others.enter_context(attached(path)) for path in members]
            subprocess.run(["mkfs.btrfs", "-q", *devices], check=True)
            scan: list[str | Path] = ["btrfs", "device", "scan", *devices]
            subprocess.run(scan, check=True, stdout=subprocess.DEVNULL)
        # Other processes may have taken some of the six numbers.
        attempts = (stack.enter_context(attached(copies[1])) for _ in range(64))
        second = next(device for device in attempts if device in devices)
        with mounted(second, points[1]):
            assert os.path.ismount(points[1])
