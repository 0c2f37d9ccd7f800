"""What a new root inherits from the previous one or the base, and the subvolumes that are
deleted with an old root.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from btrfs_image import (
    DAY,
    NOON,
    Disk,
    Site,
    btrfsutil,
    fresh_disk,
    mounted,
    subvolume_id,
    uuid,
)
from ephemeroot.wipers.btrfs import Btrfs

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


@pytest.mark.parametrize(
    "name",
    ["with space", "new\nline", "*", "-rf", "--", "x" * 255, "ä" * 127, "\\040", "root.ephemeroot.",
     os.fsdecode(b"\xff\xfe")],
)  # fmt: skip
def test_odd_names_of_roots(disk: Disk, name: str) -> None:
    site = disk.site()
    site.root = site.path / name
    site.with_root()
    site.with_base()
    nested = site.path / "base" / name
    btrfsutil.create_subvolume(str(nested))
    site.settings["old-roots"] = f"{site.name}/old/{name}"
    site.old_roots = disk.top / str(site.settings["old-roots"])
    site.boots([NOON, NOON + 1])
    assert site.old() == ["2026-11-23T12-00-00Z.keep", "2026-11-23T12-00-01Z"]
    assert (site.root / name).stat().st_ino not in (2, 256)
    assert site.strays() == []


def test_only_the_root_volume_gets_a_skeleton(site: Site) -> None:
    os.chown(site.root, 3, 4)
    site.root.chmod(0o1711)
    os.setxattr(site.root, "security.selinux", b"system_u:object_r:home_root_t:s0\0")
    site.rotate(target="/home")
    assert list(site.root.iterdir()) == []
    status = site.root.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (3, 4, 0o1711)
    assert os.getxattr(site.root, "security.selinux").startswith(b"system_u:object_r:home_root_t")


def test_an_empty_root_inherits_the_labels_of_the_previous_root(site: Site) -> None:
    (site.root / "etc").mkdir()
    os.setxattr(site.root / "etc", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    (site.root / "var").symlink_to("/etc")
    site.rotate()
    assert os.getxattr(site.root / "etc", "security.selinux") == b"system_u:object_r:etc_t:s0\0"
    assert "security.selinux" not in os.listxattr(site.root / "var")


@pytest.mark.parametrize("with_base", [False, True])
def test_copies_compression(site: Site, with_base: bool) -> None:
    if with_base:
        site.with_base()
    os.setxattr(site.root, "btrfs.compression", b"zstd")
    for now in (NOON, NOON + 1):
        site.rotate(now)
        assert os.getxattr(site.root, "btrfs.compression") == b"zstd"


def test_the_compression_of_the_base_takes_precedence(site: Site) -> None:
    site.with_base()
    os.setxattr(site.root, "btrfs.compression", b"zstd")
    os.setxattr(site.path / "base", "btrfs.compression", b"lzo")
    site.rotate()
    assert os.getxattr(site.root, "btrfs.compression") == b"lzo"


@pytest.mark.parametrize("with_base", [False, True])
def test_copies_quotas(tmp_path: Path, with_base: bool) -> None:
    with fresh_disk(tmp_path) as disk:
        top = str(disk.top)
        site = disk.site().with_root()
        if with_base:
            site.with_base()
        for command in (
            ["quota", "enable", top],
            ["qgroup", "create", "1/7", top],
            ["qgroup", "assign", f"0/{subvolume_id(site.root)}", "1/7", top],
            ["qgroup", "limit", "32M", str(site.root)],
        ):
            subprocess.run(["btrfs", *command], check=True, capture_output=True)
        for now in (NOON, NOON + 1):
            site.rotate(now)
            subprocess.run(["btrfs", "quota", "rescan", "-W", top], check=True, capture_output=True)
            command = ["btrfs", "qgroup", "show", "-pr", "--raw", top]
            table = subprocess.check_output(command, text=True)
            row = re.search(rf"^0/{subvolume_id(site.root)}\s+.*$", table, re.MULTILINE)
            assert row is not None
            limit, parent = row[0].split()[3:5]
            assert (limit, parent) == (str(32 << 20), "1/7")
        with pytest.raises(OSError, match="quota"):
            write_megabytes(site.root / "big", 40)


def test_copies_simple_quotas(tmp_path: Path) -> None:
    """They count extents by the subvolume that created them, and the kernel refuses to count them
    again.
    """
    quota_ctl, enable_simple = 0xC0109428, 4  # include/uapi/linux/btrfs.h, since Linux 6.7
    with fresh_disk(tmp_path) as disk:
        top = str(disk.top)
        fd = os.open(top, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, quota_ctl, bytearray(struct.pack("=QQ", enable_simple, 0)))
        except OSError as error:
            pytest.skip(f"needs a kernel with simple quotas (6.7): {error.strerror}")
        finally:
            os.close(fd)
        site = disk.site().with_root().with_base()
        for command in (
            ["create", "1/7", top],
            ["assign", f"0/{subvolume_id(site.root)}", "1/7", top],
        ):
            subprocess.run(["btrfs", "qgroup", *command], check=True, capture_output=True)
        site.rotate()
        command = ["btrfs", "qgroup", "show", "-p", "--raw", top]
        table = subprocess.check_output(command, text=True)
        row = re.search(rf"^0/{subvolume_id(site.root)}\s+.*$", table, re.MULTILINE)
        assert row is not None
        assert row[0].split()[3] == "1/7"


def write_megabytes(path: Path, megabytes: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(megabytes):
            os.write(fd, os.urandom(1 << 20))
            os.fsync(fd)
    finally:
        os.close(fd)


def test_nested_subvolumes_are_deleted_with_the_old_root(site: Site) -> None:
    machines = site.root / "machines"
    btrfsutil.create_subvolume(str(machines))
    (machines / "disk").write_text("data")
    outcome = site.rotate()
    assert outcome.retired is not None
    assert (site.old_roots / outcome.retired / "machines/disk").read_text() == "data"


def test_reports_nested_subvolumes_of_a_live_root(site: Site, tmp_path: Path) -> None:
    btrfsutil.create_subvolume(str(site.root / "machines"))
    (site.root / "var").mkdir()
    btrfsutil.create_subvolume(str(site.root / "var/portables"))
    with mounted(site.disk.loop, tmp_path / "m", f"subvol={site.subvolume}") as root:
        opened = os.open(root, os.O_RDONLY)
        try:
            assert Btrfs(site.settings).nested(opened) == ["machines", "var/portables"]
        finally:
            os.close(opened)


def test_nested_subvolumes_of_the_base_become_plain_directories(site: Site) -> None:
    site.with_base()
    base = site.path / "base"
    (base / "var/lib").mkdir(parents=True)
    for path in ("srv", "var/lib/machines", "var/lib/machines/deep"):
        btrfsutil.create_subvolume(str(base / path))
    machines = base / "var/lib/machines"
    (machines / "big").write_text("not carried over")
    os.chown(machines, 7, 8)
    machines.chmod(0o2751)
    os.setxattr(machines, "user.note", b"mine")
    os.setxattr(machines, "security.selinux", b"system_u:object_r:var_lib_t:s0\0")
    os.setxattr(machines, "trusted.ephemeroot.state", b"boot-complete x")
    subprocess.run(["chattr", "+C", str(machines)], check=True)

    site.rotate()

    for path in ("srv", "var/lib/machines"):
        (site.root / path / "new").mkdir()
        assert (site.root / path).stat().st_ino not in (2, 256)
    mended = site.root / "var/lib/machines"
    status = mended.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o2751)
    assert os.getxattr(mended, "user.note") == b"mine"
    assert os.getxattr(mended, "security.selinux") == b"system_u:object_r:var_lib_t:s0\0"
    assert "trusted.ephemeroot.state" not in os.listxattr(mended)
    flags = subprocess.check_output(["lsattr", "-d", str(mended)], text=True)
    assert "C" in flags.split()[0]
    assert sorted(os.listdir(mended)) == ["new"]


@pytest.mark.requires_program("setfacl")
def test_keeps_the_acl_of_a_nested_subvolume(site: Site) -> None:
    site.with_base()
    nested = site.path / "base/nested"
    btrfsutil.create_subvolume(str(nested))
    subprocess.run(["setfacl", "-m", "u:7:rwx,d:u:8:rx", str(nested)], check=True)
    site.rotate()
    acl = subprocess.check_output(["getfacl", "-npE", str(site.root / "nested")], text=True)
    assert "user:7:rwx" in acl
    assert "default:user:8:r-x" in acl


def test_boots_an_old_root_with_nested_subvolumes(site: Site) -> None:
    btrfsutil.create_subvolume(str(site.root / "nested"))
    site.boots([NOON])
    site.rotate(NOON + 1, request="2026-11-23T12-00-00Z.keep")
    (site.root / "nested/new").mkdir()


def test_a_read_only_root_stays_read_only_in_the_history(site: Site) -> None:
    btrfsutil.set_subvolume_read_only(str(site.root), True)
    outcome = site.rotate()
    assert outcome.retired == "2026-11-23T12-00-00Z.keep"
    old = site.old_roots / outcome.retired
    assert btrfsutil.get_subvolume_read_only(str(old))
    assert (old / "file").read_text() == "hello"
    assert not btrfsutil.get_subvolume_read_only(str(site.root))


def test_a_received_root_is_never_made_writable(disk: Disk) -> None:
    site = disk.site().with_root("received")
    btrfsutil.create_snapshot(str(site.root), str(site.path / "sent"), read_only=True)
    disk.sync()
    send = ["btrfs", "-q", "send", str(site.path / "sent")]
    stream = subprocess.run(send, check=True, capture_output=True).stdout
    for name in ("sent", "root"):
        btrfsutil.delete_subvolume(str(site.path / name))
    subprocess.run(["btrfs", "-q", "receive", str(site.path)], input=stream, check=True)
    (site.path / "sent").rename(site.root)
    received = uuid(site.root)

    outcome = site.rotate()

    assert outcome.problems == []
    assert outcome.retired == "2026-11-23T12-00-00Z.keep"
    assert site.old() == []
    (stray,) = site.strays()
    place = site.path / stray
    assert uuid(place) == received
    assert btrfsutil.get_subvolume_read_only(str(place))
    assert any(btrfsutil.subvolume_info(str(place)).received_uuid)
    with site.history() as history:
        (entry,) = history.entries()
        assert (entry.label, entry.kind) == ("2026-11-23T12-00-00Z.keep", "retired")

    # It stays in its place, and is not a leftover that each wipe would recover.
    site.live()
    outcome = site.rotate(NOON + DAY)
    assert (outcome.recovered, outcome.problems) == ([], [])
    assert outcome.retired == "2026-11-24T12-00-00Z"
    assert place.exists()
