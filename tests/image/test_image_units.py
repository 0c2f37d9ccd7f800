"""The units: systemd accepts them, and they wait for the right units."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ephemeroot.image import units
from ephemeroot.image.tree import Tree

FOLDER = "usr/lib/systemd/system"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The units of a plan with a volume on btrfs and one whose file system is checked."""
    devices = [
        units.Device("UUID=3c2bc5a1-0000-4000-8000-123456789abc", "btrfs", 90),
        units.Device("LABEL=my data", "ext4", 0),
    ]
    units.add(Tree(tmp_path), devices)
    return tmp_path / FOLDER


@pytest.mark.requires_program("systemd-analyze")
def test_systemd_accepts_the_units_of_a_plan(folder: Path) -> None:
    for unit in (units.WIPE, units.PERSIST):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", folder / unit],
            env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.requires_program("systemd-analyze")
@pytest.mark.parametrize(
    "unit",
    [
        "ephemeroot-inert.service",
        "ephemeroot-boot-complete.service",
        "ephemeroot-copy.path",
        "ephemeroot-copy.service",
        "ephemeroot-copy-again.service",
        "ephemeroot-copy-last.service",
        "ephemeroot-leave.service",
        "ephemeroot-unsaved.service",
        "ephemeroot-unsaved.timer",
        "ephemeroot-unsaved-shutdown.service",
        "ephemeroot-packages.service",
        "ephemeroot-upgrade.service",
        "ephemeroot-upgrade.timer",
    ],
)
def test_systemd_accepts_the_other_units(tmp_path: Path, unit: str) -> None:
    from ephemeroot.image import data

    for path in data.folder("systemd").glob("ephemeroot-*.*"):
        text = path.read_text().replace("/usr/bin/ephemeroot", "/bin/true")
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.requires_program("systemd-analyze")
def test_the_units_have_no_ordering_cycle(folder: Path) -> None:
    """systemd would break a cycle by removing a job: a volume's check, the wipe, or the
    whole boot.
    """
    for unit, text in {
        # The units that systemd-fstab-generator makes for a root on the kernel command line.
        "systemd-fsck-root.service": "[Unit]\nDefaultDependencies=no\n"
        "After=initrd-root-device.target local-fs-pre.target\n[Service]\nType=oneshot\n"
        "ExecStart=/bin/true\n",
        "sysroot.mount": "[Unit]\nDefaultDependencies=no\nRequires=systemd-fsck-root.service\n"
        "After=systemd-fsck-root.service\n[Mount]\nWhat=/dev/null\nWhere=/sysroot\n",
    }.items():
        (folder / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", folder / "initrd-root-fs.target"],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_stages_are_required(folder: Path) -> None:
    for link in (
        f"sysroot.mount.requires/{units.WIPE}",
        f"initrd-root-fs.target.requires/{units.WIPE}",
        f"initrd-root-fs.target.requires/{units.PERSIST}",
    ):
        assert (folder / link).resolve() == folder / link.rpartition("/")[2]
        assert f"/{FOLDER}/{link}" in units.required()


def test_a_missing_device_does_not_prevent_the_stage(folder: Path) -> None:
    text = (folder / f"{units.WIPE}.d/volumes.conf").read_text()
    uuid = r"dev-disk-by\x2duuid-3c2bc5a1\x2d0000\x2d4000\x2d8000\x2d123456789abc.device"
    data = r"dev-disk-by\x2dlabel-my\x5cx20data.device"
    for unit in (uuid, data, f"systemd-fsck@{data.removesuffix('.device')}.service"):
        assert f"Wants={unit}\nAfter={unit}\n" in text
    assert "Requires" not in text
    assert "systemd-fsck@" + uuid.removesuffix(".device") not in text


@pytest.mark.requires_program("systemd-escape")
@pytest.mark.parametrize(
    "path", ["/dev/disk/by-label/my\\x20data", "/dev/.hidden", "/dev/mapper/a-b_c:d"]
)
def test_names_devices_as_systemd_does(path: str) -> None:
    done = subprocess.run(
        ["systemd-escape", "--path", path], check=True, capture_output=True, text=True
    )
    assert units.Device(path, "btrfs", 1).unit == done.stdout.strip() + ".device"


def test_sets_timeouts(folder: Path) -> None:
    drop_ins = sorted(folder.glob("dev-*.device.d/zz-ephemeroot.conf"))
    texts = "".join(path.read_text() for path in drop_ins)
    assert len(drop_ins) == 2
    assert "JobRunningTimeoutSec=90\n" in texts
    assert "JobRunningTimeoutSec=infinity\n" in texts
    assert texts.count("After=cryptsetup.target\n") == 2


def test_waits_for_a_resume(folder: Path) -> None:
    text = (folder / units.WIPE).read_text()
    after = " ".join(line for line in text.splitlines() if line.startswith("After="))
    assert "systemd-hibernate-resume.service" in after
    assert "local-fs-pre.target" in after
    # It must have ended when the real system starts, which waits for its own unit.
    assert "Wants=" not in text


@pytest.mark.parametrize("unit", [units.WIPE, units.PERSIST])
@pytest.mark.parametrize("word", ["no", "n", "0", "false", "f", "off"])
def test_ephemeroot_no_needs_no_interpreter(folder: Path, unit: str, word: str) -> None:
    assert f"ConditionKernelCommandLine=!ephemeroot={word}\n" in (folder / unit).read_text()


def test_only_the_wiper_mounts_a_root_that_it_makes(tmp_path: Path) -> None:
    units.add(Tree(tmp_path / "usual"), [])
    assert not list(tmp_path.glob("usual/**/sysroot.mount.d"))
    units.add(Tree(tmp_path / "mounted"), [], mounts_root=True)
    for unit in ("sysroot.mount", "systemd-fsck-root.service"):
        text = (tmp_path / "mounted" / FOLDER / f"{unit}.d/ephemeroot.conf").read_text()
        assert text == "[Unit]\nConditionPathIsMountPoint=!/sysroot\n"
    # Images of mkinitcpio lack the unit, and nothing else creates it in time.
    assert (tmp_path / "mounted/sysroot").is_dir()
