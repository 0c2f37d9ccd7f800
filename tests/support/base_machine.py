"""A machine whose root is a btrfs subvolume, entered with chroot in separate namespaces.

Its /usr is the host's below an overlay, so that commands run and their changes do not leave it; its
kernel modules are in /lib, in the subvolume. /boot and /run are folders of the test, each mounted
as a separate file system.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import programs
from btrfs_image import Disk, btrfsutil, subvolume_id, uuid
from checkout import CHECKOUT
from programs import PROGRAM

RUNNING = os.uname().release

CONFIGURATION = """\
[root]
wiper = "btrfs"
[root.btrfs]
device = "{device}"
subvolume = "root"
base = "root-base"
keep-bases = 2
"""

_ENTER = """\
set -e
root=$1; boot=$2; run=$3; loop=$4; usr=$5; checkout=$6; shift 6
mount --make-rprivate /
mount -o subvol=root "$loop" "$root"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$usr/upper,workdir=$usr/work" "$root/usr"
for name in proc dev sys; do mount --rbind "/$name" "$root/$name"; done
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$run" "$root/run"
mkdir -p "$root$checkout"
mount --rbind "$checkout" "$root$checkout"
mount --bind "$boot" "$root/boot"
exec chroot "$root" "$@"
"""


class Machine:
    """See the module; ``boot`` is its /boot."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self.disk = disk
        self.top = disk.top
        self.folder = folder
        self.boot = folder / "boot"
        self.run_folder = folder / "run"
        self.usr = folder / "usr"
        for path in (
            self.boot,
            self.run_folder,
            self.usr / "upper/sbin",
            self.usr / "work",
            folder / "root",
        ):
            path.mkdir(parents=True)
        init = self.usr / "upper/sbin/init"
        init.write_text("#!/bin/sh\n")
        init.chmod(0o755)
        btrfsutil.create_subvolume(str(self.top / "root"))
        self._fill(self.top / "root")
        self.kernel(RUNNING)

    def _fill(self, root: Path) -> None:
        for name in ("boot", "dev", "etc/ephemeroot", "proc", "run", "sys", "tmp", "usr", "var"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        # On Debian and others these are links into /usr, which here is not part of the subvolume.
        (root / "lib").mkdir()
        for libraries in Path("/usr/lib").glob("*-linux-gnu*"):
            (root / "lib" / libraries.name).symlink_to(f"../usr/lib/{libraries.name}")
        (root / "etc/os-release").write_text('PRETTY_NAME="Test 1"\n')
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        configuration = CONFIGURATION.format(device=self.disk.loop)
        (root / "etc/ephemeroot/ephemeroot.toml").write_text(configuration)

    def kernel(self, release: str) -> None:
        """Install a kernel as a package would, outside of any base."""
        modules = self.top / "root/lib/modules" / release
        (modules / "kernel").mkdir(parents=True)
        (modules / "modules.dep").write_text(release)
        (self.boot / f"vmlinuz-{release}").write_text(f"kernel {release}")
        (self.boot / "loader.conf").write_text(f"default {release}\n")

    def words(self, *words: str) -> list[str]:
        """The command line that runs *words* in the machine."""
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "enter"]
        facts = [
            self.folder / "root", self.boot, self.run_folder, self.disk.loop, self.usr, CHECKOUT,
        ]  # fmt: skip
        return [*enter, *map(str, facts), *words]

    def base_words(self, *words: str) -> list[str]:
        """The same for ``ephemeroot base``."""
        return self.words(str(PROGRAM), "base", *words)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``ephemeroot`` in the machine."""
        self.disk.sync()
        return programs.run(*words, steps=self._steps())

    def _steps(self) -> list[programs.Step]:
        """The steps of `words`, for `programs`."""
        root = str(self.folder / "root")
        layers = f"lowerdir=/usr,upperdir={self.usr}/upper,workdir={self.usr}/work"
        bind = programs.MS_BIND
        of_host: list[programs.Step] = [
            ["mount", f"/{name}", f"{root}/{name}", "", bind | programs.MS_REC, ""]
            for name in ("proc", "dev", "sys")
        ]
        return [
            ["namespace"],
            ["mount", self.disk.loop, root, "btrfs", 0, "subvol=root"],
            ["mount", "overlay", f"{root}/usr", "overlay", 0, layers],
            *of_host,
            ["mount", "tmpfs", f"{root}/tmp", "tmpfs", 0, ""],
            ["mount", str(self.run_folder), f"{root}/run", "", bind, ""],
            ["mkdir", f"{root}{CHECKOUT}"],
            ["mount", str(CHECKOUT), f"{root}{CHECKOUT}", "", bind | programs.MS_REC, ""],
            ["mount", str(self.boot), f"{root}/boot", "", bind, ""],
            ["chroot", root],
        ]  # fmt: skip

    def base(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``ephemeroot base`` in the machine."""
        return self.call("base", *words)

    def create(self) -> None:
        done = self.base("create")
        assert done.returncode == 0, done.stderr

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """``base run`` of a shell script."""
        return self.base("run", "--", "sh", "-ec", script)

    def listed(self) -> list[dict[str, Any]]:
        done = self.base("list", "--json")
        assert done.returncode == 0, done.stderr
        content = json.loads(done.stdout)
        assert (content["format"], content["version"]) == ("ephemeroot-base", 1)
        found: list[dict[str, Any]] = content["bases"]
        return found

    @property
    def path(self) -> Path:
        """The base."""
        return self.top / "root-base"

    def old(self) -> list[str]:
        folder = self.top / "old_bases"
        return sorted(os.listdir(folder)) if folder.exists() else []

    def strays(self) -> list[str]:
        """Temporary names that were left behind."""
        places = [self.top, self.top / "old_bases", self.path / "lib", self.path / "lib/modules"]
        return [
            str(place / name)
            for place in places
            if place.exists()
            for name in os.listdir(place)
            if name.startswith(".")
        ]

    def state(self) -> dict[str, object]:
        """Everything that a failed run must leave unchanged."""
        found: dict[str, object] = {"id": subvolume_id(self.path), "uuid": uuid(self.path)}
        for top in (self.path, self.boot):
            for folder, _, names in sorted(os.walk(top)):
                found[folder] = sorted(names)
                for name in names:
                    path = Path(folder, name)
                    status = path.lstat()
                    content = os.readlink(path) if path.is_symlink() else path.read_bytes()
                    found[str(path)] = (content, status.st_mode, status.st_mtime_ns)
        found["old"] = self.old()
        return found


def install(release: str, removed: str = "") -> str:
    """A shell script with the effect of a kernel's package; *removed* is a kernel to remove."""
    script = f"""
        mkdir -p /lib/modules/{release}/kernel
        echo {release} > /lib/modules/{release}/modules.dep
        echo "kernel {release}" > /boot/vmlinuz-{release}
        echo "default {release}" > /boot/loader.conf
    """
    if removed:
        script += f"rm -r /lib/modules/{removed} /boot/vmlinuz-{shlex.quote(removed)}\n"
    return script
