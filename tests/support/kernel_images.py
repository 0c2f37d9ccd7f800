"""Writing kernel images for tests: the headers by which boot loaders recognise them, and no code.

x86: Documentation/arch/x86/boot.rst; zboot: drivers/firmware/efi/libstub/zboot-header.S; arm64:
Documentation/arch/arm64/booting.rst; unified: UAPI.5.
"""

from __future__ import annotations

import gzip
import lzma
import random
import struct
import subprocess
from collections.abc import Callable

# Not compressible, so that each image has at least the size of a kernel.
FILLING = random.Random(6).randbytes(0x8000)


def banner(release: str) -> bytes:
    """The text that init/version.c puts into every kernel."""
    return f"Linux version {release} (root@build) (gcc 14.2) #1 SMP PREEMPT_DYNAMIC\n\0".encode()


def bzimage(release: str, *, text: str | None = None) -> bytes:
    """For x86, with an EFI stub; *text* is its version string."""
    image = bytearray(0x4000)
    image[0:2] = b"MZ"
    image[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    struct.pack_into("<HIHH", image, 0x206, 0x20F, 0, 0x1000, 0x3000)
    said = f"{release} (root@build) #1 SMP PREEMPT_DYNAMIC" if text is None else text
    image[0x3200 : 0x3200 + len(said) + 1] = said.encode() + b"\0"
    return bytes(image) + FILLING


def arm64(release: str) -> bytes:
    """An uncompressed Image."""
    head = bytearray(0x40)
    head[0:2], head[0x38:0x3C] = b"MZ", b"ARM\x64"
    return bytes(head) + FILLING + banner(release) + FILLING


def zboot(release: str, kind: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    payload = compress(arm64(release))
    # The real size follows the data.
    head = struct.pack("<2sxx4sII8x32s", b"MZ", b"zimg", 0x1000, len(payload), kind)
    return head.ljust(0x1000, b"\0") + payload + struct.pack("<I", len(arm64(release)))


def unified(kernel: bytes, *, uname: str | None = None, name: bytes = b".linux") -> bytes:
    """A program for UEFI with *kernel* in the section *name*."""
    sections = [(b".osrel", b"ID=test\n"), (name, kernel), (b".initrd", b"070701")]
    if uname is not None:
        sections.append((b".uname", uname.encode()))
    optional = struct.pack("<H", 0x20B).ljust(112, b"\0")
    coff = struct.pack("<4sHHIIIHH", b"PE", 0x8664, len(sections), 0, 0, 0, len(optional), 0)
    start = 0x40 + len(coff) + len(optional) + 40 * len(sections)
    table = body = b""
    for section, content in sections:
        stored = -(-len(content) // 512) * 512
        place = start + len(body)
        table += struct.pack("<8sIIII16x", section, len(content), 0, stored, place)
        body += content.ljust(stored, b"\0")
    return b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + coff + optional + table + body


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


FORMATS: dict[str, Callable[[str], bytes]] = {
    "bzimage": bzimage,
    "arm64": arm64,
    "arm64-gzip": lambda release: gzip.compress(arm64(release)),
    "vmlinux": lambda release: b"\x7fELF" + FILLING + banner(release),
    "vmlinux-xz": lambda release: lzma.compress(b"\x7fELF" + FILLING * 4 + banner(release)),
    "zimage": lambda release: FILLING + gzip.compress(FILLING + banner(release)) + FILLING,
    "zboot-gzip": lambda release: zboot(release, b"gzip", gzip.compress),
    "zboot-zstd": lambda release: zboot(release, b"zstd", zstd),
    "unified": lambda release: unified(bzimage(release), uname=release),
    "unified-without-uname": lambda release: unified(bzimage(release)),
    "unified-arm64": lambda release: unified(arm64(release)),
    "unified-zboot": lambda release: unified(zboot(release, b"gzip", gzip.compress)),
    "unified-odd-kernel": lambda release: unified(FILLING, uname=f"{release}\n"),
}
"""Each format of a kernel, by name."""

NAMES = (
    "vmlinuz-linux", "vmlinuz", "vmlinuz-6.6.6-not-this-one", "vmlinux-x", "Image", "bzImage",
    "kernel8.img", "kernel-genkernel-x86_64", "{token}/{release}/linux",
    "EFI/Linux/arch-linux.efi", "EFI/Linux/{token}-{release}+3-1.efi",
    "loader/boot/vmlinuz-linux-lts",
)  # fmt: skip
"""Names of kernels as distributions, kernel-install and administrators choose them."""
