"""The tools tree: a Debian 13 with QEMU and the filesystem tools, the same on every host."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from vm import debian
from vm.cache import Cache, digest
from vm.command import run
from vm.sandbox import with_usr

# Debian 12's QEMU 7.2 ends this guest with a double fault in half of the boots, and is twice as
# slow.
PACKAGES = debian.Selection(
    packages=(
        "qemu-system-x86",  # depends on seabios and qemu-system-data
        "qemu-utils",  # qemu-img, qemu-storage-daemon
        "ovmf",
        "btrfs-progs",
        "dosfstools",
        "e2fsprogs",
        "fdisk",
        "zstd",
    )
)


class Tools:
    """Runs programs of the tools tree; paths mean the same as on the host."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def argv(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that starts `argv` from the tree."""
        return with_usr(self.tree, argv)

    def run(self, *argv: str | Path) -> str:
        """Run a program of the tree; returns its stdout. Raises CommandFailed."""
        return run(self.argv(argv))

    def popen(self, argv: Sequence[str | Path], pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start a program of the tree that ends at the latest when this process does."""
        # pdeathsig, because a killed test run must not leave a machine that uses two cores without
        # end
        words = ["setpriv", "--pdeathsig", "KILL", "--", *self.argv(argv)]
        return subprocess.Popen(words, pass_fds=tuple(pass_fds), start_new_session=True)


def tree(cache: Cache, packages: debian.Selection) -> Path:
    """A Debian to run programs of, bootstrapped if the cache has none."""
    key = digest(repr(packages), debian.RECIPE)
    entry = cache.entry(
        "tools", key, lambda folder: debian.bootstrap(folder / "tree", packages), keep=6
    )
    return entry / "tree"


def tools(cache: Cache) -> Tools:
    """The tools tree (about 16 s to bootstrap, 210 MB)."""
    return Tools(tree(cache, PACKAGES))
