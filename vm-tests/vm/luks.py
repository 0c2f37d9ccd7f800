"""Encrypted disks: the header by cryptsetup, the content by QEMU, without device mapper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache
from vm.command import run
from vm.disk import Layout, copy_extents
from vm.export import exported
from vm.loop import attached
from vm.system import System
from vm.tools import Tools

_HEADER = 2
"""MiB that cryptsetup reserves for a header of this version."""

# LUKS 1, the only version that QEMU knows. Few iterations and the smaller key cost the guest less
# time.
_SCRIPT = """\
printf %s "$3" > /run/passphrase
printf %s "$4" > /run/key
cheap="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
cryptsetup luksFormat --batch-mode --type luks1 --uuid "$2" $cheap --hash sha256 \\
    --cipher aes-xts-plain64 --key-size 256 "$1" /run/passphrase
cryptsetup luksAddKey $cheap --key-file /run/passphrase "$1" /run/key
"""


@dataclass(frozen=True)
class Luks:
    """A LUKS over the whole disk with `inner` in it, opened by a passphrase as well as by a key."""

    inner: Layout
    uuid: str
    passphrase: str
    key: str

    @property
    def size(self) -> str:
        """See Layout."""
        number, unit = int(self.inner.size[:-1]), self.inner.size[-1]
        return f"{number * {'M': 1, 'G': 1024}[unit] + _HEADER}M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        with attached(image) as device:
            words = (device, self.uuid, self.passphrase, self.key)
            system.run(cache, "sh", "-euc", _SCRIPT, "luks", *words)
        plain = image.with_suffix(".plain")
        run(["truncate", "--size", self.inner.size, plain])
        self.inner.fill(plain, cache, tools, system)
        with self._opened(image, plain.stat().st_size, tools) as opened:
            copy_extents(plain, opened)
        plain.unlink()

    @contextmanager
    def _opened(self, image: Path, size: int, tools: Tools) -> Iterator[Path]:
        """The decrypted content, as a file."""
        export = image.with_suffix(".export")
        export.write_bytes(b"")
        words = [
            "qemu-storage-daemon",
            *("--object", f"secret,id=passphrase,data={self.passphrase}"),
            *("--blockdev", f"driver=file,node-name=disk,filename={image}"),
            *("--blockdev", "driver=luks,node-name=inside,file=disk,key-secret=passphrase"),
            "--export",
            f"type=fuse,id=export,node-name=inside,writable=on,mountpoint={export}",
        ]
        daemon = tools.popen(words, ())
        try:
            yield exported(daemon, export, size)
        finally:
            daemon.terminate()
            daemon.wait(60)
            export.unlink()
