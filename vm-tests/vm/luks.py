"""Encrypted disks: the header by cryptsetup, what is inside by qemu-img; no device mapper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache
from vm.command import run
from vm.disk import Layout
from vm.loop import attached
from vm.system import System
from vm.tools import Tools

_HEADER = 2
"""MiB: what cryptsetup leaves for a header of this version."""

# LUKS 1: qemu-img writes no other. Few iterations and the smaller key, which cost the guest less.
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
        # What was never written stays a hole; it reads as noise.
        tools.run(
            *("qemu-img", "convert", "-q", "-n", "--target-is-zero", "--target-image-opts"),
            *("--object", f"secret,id=passphrase,data={self.passphrase}"),
            *("-f", "raw", plain, f"driver=luks,key-secret=passphrase,file.filename={image}"),
        )
        plain.unlink()
