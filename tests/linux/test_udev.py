"""Waiting for devices: a real netlink monitor, and the stage that uses it.

No udev sends events during these tests.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import ephemeroot
from btrfs_image import loop_device, mkfs
from ephemeroot.errors import Refused
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.guards import waiting
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import mountinfo, udev

try:
    udev.load()
except ImportError as error:
    pytest.skip(f"no udev library here: {error}", allow_module_level=True)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    report = Report("wipe", str(tmp_path / "boot.json"), "a boot", boot=False, verbose=False)
    stage = Stage(
        Plan(wipe=[], persist=[]),
        CommandLine(""),
        report,
        target=str(tmp_path),
        run=str(tmp_path),
        boot_id="a boot",
    )
    stage.wait = True
    return stage


def test_does_not_wait_for_an_existing_device() -> None:
    assert udev.wait_for("/dev/null", 60)


def test_the_wait_ends_at_the_timeout(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert not udev.wait_for(str(tmp_path / "device"), 1)
    assert time.monotonic() - begun >= 1


def test_the_message_lists_existing_devices(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^it is missing \(block devices found: .*\)$"):
        waiting.device(stage, str(tmp_path / "device"), 1, "it")


def test_does_not_wait_again_after_dracuts_loop(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / waiting.WAITED).touch()
    begun = time.monotonic()
    with pytest.raises(Refused, match="is missing"):
        waiting.device(stage, str(tmp_path / "device"), 600, "it")
    assert time.monotonic() - begun < 60


def test_a_missing_library_is_reported_and_not_fatal(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyudev", None)
    with pytest.raises(Refused, match="is missing"):
        waiting.device(stage, str(tmp_path / "device"), 600, "it")
    assert stage.report.problems() == 1


@pytest.mark.parametrize("imported", ["ctypes.util, datetime, subprocess, threading", "sys"])
def test_removes_the_replacement_modules(imported: str) -> None:
    """Later imports of these modules must find the real ones."""
    code = f"""
import {imported}
from ephemeroot.linux import udev
udev.load()
import ctypes.util, datetime, subprocess, threading
assert ctypes.util.find_library("c").startswith("libc.so"), ctypes.util
assert datetime.timedelta(1).days == 1
assert subprocess.run(["true"]).returncode == 0
assert threading.current_thread().name == "MainThread"
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_a_wait_does_not_need_the_replaced_modules() -> None:
    code = """
import sys
from ephemeroot.linux import udev
assert not udev.wait_for("/nonexistent", 0.2)
print({"datetime", "locale", "subprocess", "threading"} & set(sys.modules))
"""
    here = str(Path(ephemeroot.__path__[0]).parent)
    library = str(Path(udev.load().__file__ or "").parent.parent)
    bare = f"import sys; sys.path[:0] = [{here!r}, {library!r}]{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", bare], check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"


def test_imports_nothing_without_a_wait() -> None:
    code = "import sys; from ephemeroot.hooks import __main__; print('pyudev' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False\n"


@pytest.mark.requires_loop
def test_mounts_a_volume_by_the_name_that_mount_would_use(stage: Stage, tmp_path: Path) -> None:
    link = tmp_path / "by-label"
    with loop_device(tmp_path / "image", 120) as loop:
        mkfs(loop)
        link.symlink_to(loop)
        volume = MountVolume(mount_point="/data", name="data", device=str(link), type="btrfs")
        assert volume.execute(stage) == "mounted"
        mount = mountinfo.mounted_at(stage.volume("data"))
        assert mount is not None
        assert mount.source == loop
        subprocess.run(["umount", stage.volume("data")], check=True)
