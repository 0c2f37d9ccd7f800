"""Which filesystems the boot loader uses, wherever they are mounted, and the refusal of one that is
not mounted.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from boot_tree import inside, write
from ephemeroot.base import boot_filesystems
from ephemeroot.linux import mountinfo
from loop_device import attached

pytestmark = pytest.mark.requires_root

PLACES = ("/boot", "/boot/efi", "/boot/firmware", "/efi", "/esp", "/boot/grub", "/boot/efi2",
          "/ESP", "/mnt/esp", "/boot2")  # fmt: skip
UNIT = "[Mount]\nWhat={device}\nWhere={place}\nType={type}\n"


def unit_name(place: str, ending: str) -> str:
    return place.strip("/").replace("/", "-") + ending


def fstab(options: str) -> Any:
    def declare(tree: Path, place: str) -> None:
        write(tree, "etc/fstab", f"# a line\n/dev/no1 {place} vfat {options} 0 2\n")

    return declare


def unit(folder: str, ending: str) -> Any:
    def declare(tree: Path, place: str) -> None:
        text = UNIT.format(device="/dev/no1", place=place, type="vfat")
        write(tree, f"{folder}/{unit_name(place, ending)}", text)

    return declare


WAYS = {
    "fstab": fstab("defaults"),
    "noauto": fstab("noauto,user"),
    "nofail": fstab("nofail,x-systemd.automount"),
    "mount-unit": unit("etc/systemd/system", ".mount"),
    "vendor-unit": unit("usr/lib/systemd/system", ".mount"),
    "automount-unit": unit("run/systemd/generator.late", ".automount"),
}


def requirement() -> str:
    boot_filesystems.require_mounted()
    return "nothing is missing"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
def test_refuses_a_declared_mount_that_is_missing_and_names_it(
    tmp_path: Path, way: str, place: str
) -> None:
    WAYS[way](tmp_path, place)
    kind, text = inside(tmp_path, requirement)
    assert kind == "Refused"
    assert text.startswith(f"{place} is not mounted, but ")
    assert f"run 'mount {place}'" in text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
def test_accepts_mounted_filesystems(tmp_path: Path, way: str, place: str) -> None:
    WAYS[way](tmp_path, place)
    mount = f'mkdir -p "$root{place}"; mount -t tmpfs tmpfs "$root{place}"'

    def look() -> list[str]:
        requirement()
        return [one.point for one in boot_filesystems.find()]

    assert inside(tmp_path, look, mount) == [place]


def test_finds_mounts_that_only_the_base_declares(tmp_path: Path) -> None:
    text = "/dev/no1 /boot ext4 defaults 0 2\n/dev/no2 /efi vfat noauto 0 2\n"
    write(tmp_path, "base/etc/fstab", text)

    def look() -> list[str]:
        requirement()
        return boot_filesystems.expected(os.open("/base", os.O_RDONLY))

    mount = 'mkdir "$root/efi"; mount -t tmpfs tmpfs "$root/efi"'
    assert inside(tmp_path, look, mount) == ["/boot"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/fstab", "#/dev/no1 /boot ext4 defaults 0 2\n"),
        ("etc/fstab", "/dev/no1 /home ext4 noauto 0 2\n/dev/no2 none swap defaults 0 0\n"),
        ("etc/fstab", "/dev/no1 /mnt/stick vfat noauto,user 0 0\n"),
        ("etc/systemd/system/boot.mount", ""),
        ("etc/systemd/system/home.mount", "[Mount]\nWhat=/dev/no1\nWhere=/home\n"),
    ],
)
def test_does_not_require_other_mounts(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)
    assert inside(tmp_path, requirement) == "nothing is missing"


def test_a_masked_unit_hides_the_vendors_mount_unit(tmp_path: Path) -> None:
    WAYS["vendor-unit"](tmp_path, "/boot")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/boot.mount").symlink_to("/dev/null")
    assert inside(tmp_path, requirement) == "nothing is missing"


CONTENTS = (
    "EFI/BOOT/BOOTX64.EFI", "EFI/Linux/os.efi", "loader/loader.conf", "loader/entries/a.conf",
    "grub/grub.cfg", "grub2/grub.cfg", "grub.cfg", "extlinux/extlinux.conf", "limine.conf",
    "vmlinuz-linux", "initramfs-linux.img", "Image",
)  # fmt: skip


def find() -> list[str]:
    return [one.point for one in boot_filesystems.find()]


@pytest.mark.parametrize("content", CONTENTS)
def test_recognises_a_boot_filesystem_in_an_unusual_place_by_its_content(
    tmp_path: Path, content: str
) -> None:
    folder = os.path.dirname(content)
    script = f"""
        mkdir -p "$root/srv/odd" "$root/srv/other"
        mount -t tmpfs tmpfs "$root/srv/odd"; mount -t tmpfs tmpfs "$root/srv/other"
        mkdir -p "$root/srv/odd/{folder}"; echo x > "$root/srv/odd/{content}"
        mkdir -p "$root/srv/other/EFI" "$root/srv/other/loader"; echo x > "$root/srv/other/file"
    """
    assert inside(tmp_path, find, script) == ["/srv/odd"]


def test_finds_the_mount_around_the_target_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "boot").symlink_to("/xbootldr/debian")
    mount = 'mkdir "$root/xbootldr"; mount -t tmpfs tmpfs "$root/xbootldr"; '
    assert inside(tmp_path, find, mount + 'mkdir "$root/xbootldr/debian"') == ["/xbootldr"]
    write(tmp_path, "etc/fstab", "/dev/no1 /xbootldr ext4 noauto 0 0\n")
    assert inside(tmp_path, requirement)[0] == "Refused"


@pytest.mark.requires_loop
@pytest.mark.requires_program("mkfs.ext4")
@pytest.mark.parametrize("content", ["EFI/BOOT/BOOTX64.EFI", "photos/one.jpg"])
def test_refuses_an_unusual_mount_point_that_is_not_mounted(tmp_path: Path, content: str) -> None:
    import subprocess

    tree, image, files = tmp_path / "tree", tmp_path / "image", tmp_path / "files"
    write(files, content, "x")
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", files, image], check=True)
    before = image.read_bytes()
    with attached(image) as loop:
        write(tree, "etc/fstab", f"{loop} /media/stick ext4 noauto,user 0 0\n")
        answer = inside(tree, requirement)
    if content.startswith("EFI"):
        assert answer[0] == "Refused"
        assert "/media/stick is not mounted" in answer[1]
    else:
        assert answer == "nothing is missing"
    assert image.read_bytes() == before


def test_refuses_a_large_filesystem_that_need_not_be_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_filesystems, "LARGEST", 1 << 20)
    script = """
        mkdir -p "$root/media/stick"; mount -t tmpfs tmpfs "$root/media/stick"
        mkdir "$root/media/stick/EFI"; head -c 2M /dev/zero > "$root/media/stick/EFI/a.efi"
    """
    kind, text = inside(tmp_path, find, script)
    assert (kind, "run 'umount /media/stick'" in text) == ("Refused", True)

    def only_look() -> list[str]:
        return [one.point for one in boot_filesystems.find(to_save=False)]

    assert inside(tmp_path, only_look, script) == ["/media/stick"]


@pytest.mark.requires_loop
@pytest.mark.usefixtures("private_mounts")
@pytest.mark.parametrize("fstype", ["ext4", "btrfs", "xfs"])
def test_recognises_a_filesystem_whose_device_name_changed(tmp_path: Path, fstype: str) -> None:
    """The next boot may find the disks in another order."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([f"mkfs.{fstype}", "-q", image], check=True, capture_output=True)
    found = set()
    with attached(image) as first:
        devices = [first]
        found.add(_identity(first, place))
        with attached(image) as second:  # while the other filesystem still has its device number
            devices.append(second)
            found.add(_identity(second, place))
    assert len(set(devices)) == 2
    assert len(found) == 1


def _identity(device: Path, place: Path) -> str:
    subprocess.run(["mount", device, place], check=True)
    try:
        mount = mountinfo.mounted_at(str(place))
        assert mount is not None
        return boot_filesystems.identity(mount)
    finally:
        subprocess.run(["umount", place], check=True)
