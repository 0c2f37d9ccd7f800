"""The release of a kernel is read from the kernel, in each format and under each name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import kernel_images
from ephemeroot.errors import Damaged
from ephemeroot.image import kernel_image
from image_archives import archive, file

RELEASES = ("6.12.9+deb13-cloud-amd64", "6.18.1-arch1-1", "7.0.0-rc3_1", "5.14.0-503.el9.x86_64")
pytestmark = pytest.mark.requires_program("zstd")


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", kernel_images.NAMES)
@pytest.mark.parametrize("kind", kernel_images.FORMATS)
def test_reads_the_release_of_each_format_under_each_name(
    tmp_path: Path, kind: str, name: str
) -> None:
    for release in RELEASES:
        where = tmp_path / name.format(token="a1b2c3", release=release)
        put(where, kernel_images.FORMATS[kind](release))
        assert kernel_image.read(where) == release


def by_name(value: object) -> str:
    """The name of a case: compressed content has a date, which differs between workers."""
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("memtest86+x64.bin", kernel_images.bzimage("", text="Memtest86+ 7.20")),
        ("ipxe.lkrn", kernel_images.bzimage("", text="iPXE 1.21.1")),
        ("memdisk", kernel_images.bzimage("", text="MEMDISK 6.03")),
        ("EFI/BOOT/BOOTX64.EFI", kernel_images.unified(b"grub", name=b"mods")),
        ("EFI/Linux/extra.addon.efi", kernel_images.unified(b"quiet", name=b".cmdline")),
        ("initrd.img-6.1", archive({"init": file(b"Linux version 6.1.0 (x)")})),
        ("initramfs-linux.img", gzip.compress(b"Linux version 6.1.0 (x) ")),
        ("vmlinuz-linux.sig", b"\x88" * 0x8000),
        ("vmlinuz-6.1.hmac", b"0123456789abcdef  vmlinuz-6.1\n"),
        ("config-6.1.0", b"# Linux/x86 6.1.0 Kernel Configuration\n"),
        ("System.map-6.1.0", b"0 T _text\n" * 4000),
        ("loader/entries/6.1.0.conf", b"linux /vmlinuz-6.1.0\n"),
        ("vmlinuz", b""),
        ("vmlinuz-6.1", b"a placeholder"),
        ("EFI/Linux/os.efi", b"nothing that boots"),
    ],
    ids=by_name,
)
def test_other_files_are_not_kernels(tmp_path: Path, name: str, content: bytes) -> None:
    assert kernel_image.read(put(tmp_path / name, content)) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vmlinuz-linux", kernel_images.bzimage("6.1.0")[:0x1000]),
        ("vmlinuz-linux", b"\xa5" * 0x10000),
        ("vmlinuz", gzip.compress(b"\xa5" * 0x100000, 0)),
        ("Image", gzip.compress(kernel_images.arm64("6.1.0"))[:0x5000]),
        ("vmlinuz", kernel_images.FORMATS["zboot-gzip"]("6.1.0")[:0x1010]),
        ("EFI/Linux/os.efi", kernel_images.unified(b"\xa5" * 0x10000)),
        ("EFI/Linux/os.efi", kernel_images.FORMATS["unified"]("6.1.0")[:0x90]),
    ],
    ids=by_name,
)
def test_names_a_kernel_that_cannot_be_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(Damaged) as caught:
        kernel_image.read(path)
    assert str(path) in caught.value.message
    assert "reinstall that kernel" in caught.value.hint
