"""The release of a kernel file, read from the kernel itself and not from its name.

Known formats: the x86 boot protocol (Documentation/arch/x86/boot.rst), unified kernel images
(UAPI.5: ``.uname``, else the kernel in ``.linux``), EFI zboot (drivers/firmware/efi/libstub,
zboot-header.S), and every other image that has the kernel's banner in it, compressed or not
(init/version.c).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.image import archive

_BANNER = re.compile(rb"Linux version (\d+\.\d[0-9A-Za-z.+_~-]*) ")
_RELEASE = re.compile(r"\d+\.\d[0-9A-Za-z.+_~-]*")
# Names of kernels by distributions, kernel-install(8) and genkernel. Initramfs images are
# compressed like some kernels, and only the name distinguishes them.
_KERNEL_NAME = re.compile(
    r"(vmlinu[xz]|(b?z|u|)image|kernel)([-._].*)?|kernel\w*\.img|linux([-._]?\d.*|\.efi)?",
    re.IGNORECASE,
)
_NOT_A_KERNEL = re.compile(r".*(\.(sig|sha\d*|hmac|old-dkms|conf|cfg|txt|map|b64|json)|\.hmac~)$")

_X86_MAGIC, _X86_AT = b"HdrS", 0x202
_PE_MAGIC = b"MZ"
_ZBOOT = b"zimg"
_BEGINNING = 0x1000
_LONGEST = 256
_SMALLEST = 0x4000
"""No kernel is smaller than this."""
_LARGEST = 512 << 20
_TRIES = 32


def read(path: Path) -> str | None:
    """The release of the kernel in the file *path*, as ``uname -r`` prints it; ``None`` if the
    file is not a Linux kernel.

    Raises ``Damaged`` if it is a kernel, or has the name of one, and its release cannot be read,
    and ``OSError``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _Image(path, fd, 0, os.fstat(fd).st_size).release()
    finally:
        os.close(fd)


def is_named_like_a_kernel(path: Path) -> bool:
    """Whether the file has the name of a kernel, or is in a directory of unified images."""
    name = path.name
    if _NOT_A_KERNEL.fullmatch(name):
        return False
    if _KERNEL_NAME.fullmatch(name):
        return True
    return path.parent.name.lower() == "linux" and name.lower().endswith(".efi")


class _Image:
    """A kernel in *size* bytes of the open *fd*, from *start*."""

    def __init__(self, path: Path, fd: int, start: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.start = start
        self.size = size

    def release(self) -> str | None:
        """See ``read``."""
        head = self._read(0, _BEGINNING)
        if head[_X86_AT : _X86_AT + 4] == _X86_MAGIC:
            return self._x86(head)
        if head[:2] == _PE_MAGIC:
            return self._program(head)
        if not is_named_like_a_kernel(self.path) or self.size < _SMALLEST:
            return None
        return self._banner()

    def _x86(self, head: bytes) -> str | None:
        """The release at the start of the text that the header points to. Memory tests, PXE
        programs and others that use the same protocol have another text, or none.
        """
        (pointer,) = struct.unpack_from("<H", head.ljust(0x210, b"\0"), 0x20E)
        if pointer == 0:
            return None
        text = self._read(0x200 + pointer, _LONGEST)
        if not text:
            raise self._damaged("it ends before the text with its release")
        found = _RELEASE.match(text.partition(b"\0")[0].decode("ascii", "replace"))
        return found[0] if found else None

    def _program(self, head: bytes) -> str | None:
        """The release of a UEFI program: a unified image, a kernel that decompresses itself or that
        UEFI can start (arm64, riscv); ``None`` for other programs.
        """
        if head[4:8] == _ZBOOT:
            start, size = struct.unpack_from("<II", head, 8)
            payload = self._read(start, size)
            if len(payload) != size or not size:
                raise self._damaged("it is shorter than its header declares")
            if not archive.is_compressed(payload):
                return self._found(payload)
            return self._found(archive.decompress(payload, self.path))
        sections = self._sections(head)
        if ".linux" in sections:
            if ".uname" in sections:
                text = self._read(*sections[".uname"]).rstrip(b"\0\n ").decode("ascii", "replace")
                if _RELEASE.fullmatch(text):
                    return text
            start, size = sections[".linux"]
            inner = _Image(self.path, self.fd, self.start + start, size)
            found = inner.release()
            if found is None:
                found = inner._banner()
            return found
        if head[0x38:0x3C] in (b"ARM\x64", b"RSC\x05") or head[0x38:0x3C] == b"\xcd\x23\x82\x81":
            return self._banner()
        return None

    def _sections(self, head: bytes) -> dict[str, tuple[int, int]]:
        """Offset and size of the sections by name, the first of each (microsoft.com, PE Format)."""
        try:
            (header,) = struct.unpack_from("<I", head, 0x3C)
            coff = self._read(header, 24)
            if coff[:4] != b"PE\0\0":
                return {}
            (count,), (optional,) = (struct.unpack_from("<H", coff, at) for at in (6, 20))
            table = self._read(header + 24 + optional, 40 * count)
            found: dict[str, tuple[int, int]] = {}
            for position in range(0, 40 * count, 40):
                name, size, _, stored, start = struct.unpack_from("<8sIIII", table, position)
                text = name.rstrip(b"\0").decode("ascii", "replace")
                found.setdefault(text, (start, min(size, stored)))
        except struct.error:
            raise self._damaged("it ends within its headers") from None
        return found

    def _banner(self) -> str:
        """The release in the kernel's banner, in an image that is or contains a kernel."""
        if self.size > _LARGEST:
            raise self._damaged(f"it is larger than {amounts.size(_LARGEST)}")
        data = self._read(0, self.size)
        found = _BANNER.search(data)
        if found:
            return found[1].decode("ascii")
        for position in _compressed(data):
            try:
                return self._found(archive.decompress(data[position:], self.path))
            except EphemerootError:
                continue  # not compressed data
        raise self._damaged("its format is unknown, or it lacks the kernel's banner")

    def _found(self, data: bytes) -> str:
        found = _BANNER.search(data)
        if found is None:
            raise self._damaged("it lacks the kernel's banner")
        return found[1].decode("ascii")

    def _read(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self.size - offset))
        parts = []
        while wanted:
            part = os.pread(self.fd, wanted, self.start + offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            wanted -= len(part)
        return b"".join(parts)

    def _damaged(self, reason: str) -> Damaged:
        return Damaged(
            f"cannot read the kernel release of {self.path}: {reason}",
            f"run 'file {self.path}'; reinstall that kernel, or remove the file",
        )


def _compressed(data: bytes) -> Iterator[int]:
    """Offsets where compressed data may start in *data*: at its start, or after a decompressor."""
    magics = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"\x02\x21\x4c\x18", b"BZh")
    pattern = re.compile(b"|".join(re.escape(magic) for magic in magics))
    return (match.start() for match in islice(pattern.finditer(data), _TRIES))
