"""A mirror of two devices of which one is missing: the options in `rootflags=` apply to all mounts
of the filesystem, and without them the message names the missing device.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from btrfs_image import loop_device, mkfs, mounted
from root_disk import Disk

pytestmark = pytest.mark.requires_loop


@pytest.mark.parametrize("named", [True, False], ids=["subvol=", "default subvolume"])
def test_wipes_a_root_with_a_missing_mirror_and_mounts_its_store(
    tmp_path: Path, named: bool
) -> None:
    with loop_device(tmp_path / "one", 384) as one:
        with loop_device(tmp_path / "two", 384) as two:
            mkfs(one, two, options=("-m", "raid1", "-d", "raid1"))
            with mounted(one, tmp_path / "top", f"subvolid=5,device={two}") as top:
                disk = Disk(tmp_path, one, two, top)
                disk.make()
                if not named:
                    root = subprocess.run(["btrfs", "subvolume", "set-default", top / "@"])
                    assert root.returncode == 0
                    disk.settings["set-default"] = True
            subprocess.run(["btrfs", "device", "scan", "--forget", one, two], check=True)
        flags = "subvol=@" if named else "noatime"
        # Without a name, the wiper looks for the default subvolume before the stores are mounted.
        code = 73 if named else 10
        assert disk.stage("wipe", f"root={one} rootflags={flags}") == code
        assert f"device 2 of 2 is missing, found: {one}" in disk.problems("wipe")
        assert "degraded" in disk.problems("wipe")
        disk.next_boot()
        line = f"root={one} rootflags={flags},degraded"
        assert disk.stage("wipe", line) == 0, disk.problems("wipe")
        options = f"{flags},degraded"
        subprocess.run(["mount", "-o", options, one, disk.sysroot], check=True)
        assert disk.stage("persist", line) == 0, disk.problems("persist")
        assert not (disk.sysroot / "work").exists()
        assert os.path.ismount(disk.sysroot / "persistent")
        disk.next_boot()
