"""ZFS for the machines: Debian's contrib has its source, so its modules are built once.

`python -m vm.zfs` does that before the tests.
"""

from __future__ import annotations

import lzma
import signal
import sys
from dataclasses import replace
from pathlib import Path

from vm import debian
from vm.cache import Cache, digest
from vm.command import Unavailable
from vm.image import PACKAGES, debian_system
from vm.sandbox import enter_private_mounts
from vm.system import System

ZFS = replace(
    PACKAGES,
    packages=(*PACKAGES.packages, "zfsutils-linux", "zfs-dracut", "python3-pyzfs"),
    components=("main", "contrib"),
)
_MODULES = ("spl", "zfs")


def zfs_system(cache: Cache) -> System:
    """The Debian 13 with ZFS: its tools, its dracut module, its Python library, its modules."""
    system = debian_system(cache, ZFS)
    built = modules(cache, system.release)
    return system.on_top(built).changed_by(cache, "depmod", "--all", system.release)


def modules(cache: Cache, release: str) -> Path:
    """A layer with OpenZFS's kernel modules for the kernel *release* (takes some minutes).

    The compiler and the headers are not kept.
    """

    def build(folder: Path) -> None:
        headers = f"linux-headers-{release}"
        needed = (headers, "dkms", "build-essential", "zfs-dkms")
        selection = debian.Selection(needed, components=ZFS.components)
        with cache.scratch("zfs") as scratch:
            tree = scratch / "tree"
            # The headers' own script has usually done this before.
            compile_it = f'--customize-hook=chroot "$1" dkms autoinstall -k {release}'
            debian.bootstrap(tree, selection, [compile_it])
            for name in _MODULES:
                made = next((tree / "usr/lib/modules" / release).rglob(f"{name}.ko*"))
                code = made.read_bytes()
                if made.suffix == ".xz":
                    code = lzma.decompress(code)
                # Not compressed: unpacking costs the guest a second at each boot.
                place = folder / f"usr/lib/modules/{release}/updates/dkms/{name}.ko"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(code)

    key = digest(release, ZFS.suite, _MODULES)
    return cache.entry("zfs-modules", key, build, keep=3)


if __name__ == "__main__":
    # If it is interrupted it leaves nothing behind, as when it fails.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        enter_private_mounts()
        zfs_system(Cache.from_environment())
    except (PermissionError, Unavailable) as error:
        sys.exit(f"vm: no ZFS here: {error}")
