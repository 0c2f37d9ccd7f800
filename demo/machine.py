"""A machine small enough for a temporary folder: a btrfs in a file, and boots of it.

Real are the filesystem, the mounts, the configuration's compiler, the boot code and the
entry it is started by. Not real: there is no kernel and no program that starts, so a boot
ends where ``switch_root`` would come, and the session after it is a few files written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ephemeroot.linux import mountinfo, mounts
from ephemeroot.wipers.btrfs import Btrfs

SIZE = 512 << 20
ADA = 1000
PROGRAM = Path(sys.executable).with_name("ephemeroot")

CONFIGURATION = """\
[root]
wiper = "btrfs"

[root.btrfs]
base = "root-base"

[[volumes]]
mount-point = "/persistent"
device = "{device}"
type = "btrfs"
options = ["subvol=persistent"]

[persistence."/persistent"]
directories = ["/var/log"]
files = ["/etc/hostname", "/etc/machine-id"]

[persistence."/persistent".users.ada]
directories = [{{ directory = "Documents", mode = "0700" }}]
"""

# What the base holds: a whole system would not fit into ten seconds, but it needs the files that
# the proofs before a wipe require: an os-release and an init.
BASE_FOLDERS = ("bin", "boot", "dev", "etc", "home", "persistent", "proc", "root", "run", "sbin",
                "srv", "sys", "tmp", "usr/lib", "usr/local/bin", "var/log", "var/tmp")  # fmt: skip
BASE_FILES = {
    "etc/fstab": "{device} / btrfs subvol=root 0 0\n",
    "etc/group": "root:x:0:\nada:x:1000:\n",
    "etc/motd": "Welcome.\n",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n",
    "usr/lib/os-release": 'ID=demo\nNAME="Ephemeroot\'s demo"\n',
    "sbin/init": "#!/bin/sh\nexec /bin/sh\n",
}


Report = dict[str, list[dict[str, Any]]]
"""The operations of each stage, as the boot report has them."""


class DemoFailed(Exception):
    """A program that the demo needs has failed; the message is its output."""


def run(*command: str | Path) -> str:
    """Run a program and return what it printed. Raises ``DemoFailed``."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        words = " ".join(map(str, command))
        raise DemoFailed(f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Machine:
    """The throw-away machine in *folder*.

    Must live in a mount namespace of its own. ``close`` ends all mounts and gives the loop
    device back; only the files in *folder* remain.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "disk.btrfs"
        self.plan = folder / "plan.json"
        self.device = ""
        self.top = self._folder("top")
        self.sysroot = self._folder("sysroot")
        self.boots = 0

    def _folder(self, *names: str) -> Path:
        path = self.folder.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def install(self) -> None:
        """Make the disk: a base, a root that is a snapshot of it, and a volume that persists."""
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        run("mkfs.btrfs", "--quiet", self.image)
        self.device = run("losetup", "--find", "--show", self.image).strip()
        run("mount", "-t", "btrfs", "-o", "subvolid=5", self.device, self.top)
        # Detached now, the device disappears with its last mount, also after a crash.
        run("losetup", "--detach", self.device)
        for name in ("root-base", "persistent"):
            run("btrfs", "subvolume", "create", self.top / name)
        self._fill(self.top / "root-base")
        run("btrfs", "subvolume", "snapshot", self.top / "root-base", self.top / "root")

    def _fill(self, base: Path) -> None:
        for name in BASE_FOLDERS:
            (base / name).mkdir(parents=True)
        for name, content in BASE_FILES.items():
            (base / name).write_text(content.format(device=self.device))
        (base / "sbin/init").chmod(0o755)
        (base / "root").chmod(0o700)
        (base / "home/ada").mkdir(mode=0o700)
        os.chown(base / "home/ada", ADA, ADA)

    @contextmanager
    def running(self) -> Iterator[Path]:
        """The installed system: its root, with the volume mounted where the machine has it."""
        root = self.sysroot
        run("mount", "-t", "btrfs", "-o", "subvol=root", self.device, root)
        try:
            run("mount", "-t", "btrfs", "-o", "subvol=persistent", self.device, root / "persistent")
            yield root
        finally:
            self.power_off()

    def configure(self) -> str:
        """Write the configuration and apply it, as an administrator does; return it."""
        text = CONFIGURATION.format(device=self.device)
        with self.running() as root:
            file = root / "etc/ephemeroot/ephemeroot.toml"
            file.parent.mkdir()
            file.write_text(text)
            run(PROGRAM, "--root", root, "apply", "--yes", "--no-images")
            # What dracut would pack into the initramfs.
            shutil.copy(root / "etc/ephemeroot/plan.json", self.plan)
        return text

    def boot(self) -> Report:
        """Boot up to where the real system would start; return each stage's operations."""
        self.boots += 1
        state = self._folder(f"boot-{self.boots}", "run")
        self._stage("wipe", state)
        # What the initramfs does between the two stages, for root= … rootflags=subvol=root ro.
        run("mount", "-t", "btrfs", "-o", "subvol=root,ro", self.device, self.sysroot)
        self._stage("persist", state)
        run("mount", "-o", "remount,rw,bind", self.sysroot)  # as systemd-remount-fs.service does
        root = os.open(self.sysroot, os.O_RDONLY | os.O_DIRECTORY)
        try:
            Btrfs({}).mark_boot_complete(root)  # as ephemeroot-boot-complete.service does
        finally:
            os.close(root)
        report = json.loads((state / "boot.json").read_text())
        return {stage: report[stage]["operations"] for stage in ("wipe", "persist")}

    def _stage(self, stage: str, state: Path) -> None:
        run(
            sys.executable, "-P", "-m", "ephemeroot.hooks", stage,
            "--plan", self.plan, "--target", self.sysroot, "--run", state,
            "--cmdline", f"root={self.device} rootflags=subvol=root ro noresume",
        )  # fmt: skip

    def power_off(self) -> None:
        """Unmount the root and all that is mounted in it."""
        run("umount", "--recursive", self.sysroot)

    def old_roots(self) -> list[Path]:
        """The retired roots, the oldest first."""
        return sorted((self.top / "old_roots").iterdir())

    def close(self) -> None:
        """End every mount in the folder and give the loop device back. May be called twice."""
        for mount in reversed(mountinfo.mounts()):
            if mount.point.startswith(f"{self.folder}/"):
                mounts.detach(mount.point)
        for line in run("losetup", "--associated", self.image).splitlines():
            device = line.partition(":")[0]
            # Detached by its last mount meanwhile, or by an earlier call: all is well then.
            subprocess.run(["losetup", "--detach", device], capture_output=True)
