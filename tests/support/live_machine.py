"""A distribution of `distributions` on loop devices, run as if this host had booted it.

Each session is a process in a private mount and PID namespace, with the machine's root as its root:
`ephemeroot` sees it as the running system. The host's programs are below the machine's in /usr.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributions import Distribution, write
from loop_device import attached

_NEVER = "### "
REBOOT = 77
"""The exit status of a session that ends with a reboot."""

PROJECT = Path(sys.prefix).resolve().parent

_SIZES = {"btrfs": 512, "xfs": 320, "ext4": 128}  # MiB
_MKFS = {"btrfs": ["-q"], "xfs": ["-q"], "ext4": ["-q", "-F"]}

# The machine's root directory is the working directory.
_ENTER = """\
set -eu
usr=$1 firmware=$2 cmdline=$3 efi=$4 project=$5; shift 5
for name in dev run tmp; do mount -t tmpfs -o mode=0755 tmpfs $name; done
mount -t proc proc proc
mount --bind "$cmdline" proc/cmdline
mount --rbind /sys sys
mount -t tmpfs tmpfs sys/firmware
[ "$efi" = 0 ] || mkdir -p sys/firmware/efi/efivars
[ ! -e "$firmware/selected" ] || cp "$firmware/selected" \
  sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
[ ! -e "$firmware/loader" ] || cp "$firmware/loader" \
  sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
mkdir -p dev/disk/by-uuid dev/shm
for name in null zero full random urandom tty; do
  mknod dev/$name c $(stat -c '0x%t 0x%T' /dev/$name)
done
for pair; do
  mknod dev/${pair%=*} b $(stat -c '0x%t 0x%T' /dev/${pair%=*})
  ln -s ../../${pair%=*} dev/disk/by-uuid/${pair#*=}
done
ln -s /proc/self/fd dev/fd
case $(cat "$firmware/device") in
  /dev/mapper/*) mkdir dev/mapper; ln -s ../${1%%=*} .$(cat "$firmware/device") ;;
esac
mount --bind "$firmware" firmware
mkdir run/modules; mount --bind usr/lib/modules run/modules
mount -t overlay -o lowerdir=usr:$usr/hidden:/usr,upperdir=$usr/upper,workdir=$usr/work overlay usr
mount --bind run/modules usr/lib/modules; umount run/modules
mkdir -p "./$project"; mount --rbind "$project" "./$project"
exec chroot . /bin/bash /firmware/session
"""


@dataclass(frozen=True)
class Done:
    """The output of a session, and its exit status."""

    status: int
    text: str


class LiveMachine:
    """`distribution` as its installer leaves it; `devices` are its filesystems by mount point."""

    def __init__(self, distribution: Distribution, folder: Path, devices: dict[str, Path]) -> None:
        self.distribution = distribution
        self.folder = folder
        self.devices = devices
        self.uuids = {point: _uuid(device) for point, device in devices.items()}
        self.usr, self.firmware = folder / "usr", folder / "firmware"
        for path in (self.usr / "upper", self.usr / "work", self.firmware, folder / "root"):
            path.mkdir(parents=True)
        # The host's own file, which does not belong to the machine: a whiteout (overlayfs.rst).
        (self.usr / "hidden").mkdir()
        os.mknod(self.usr / "hidden/local", stat.S_IFCHR)
        device = distribution.device
        called = f"/dev/mapper/{device}" if device else f"UUID={self.uuids['']}"
        (self.firmware / "device").write_text(f"{called}\n")
        if distribution.selected:
            # Four bytes of attributes, and the name with a final NUL (Boot Loader Interface).
            name = f"{distribution.selected}\0".encode("utf-16-le")
            (self.firmware / "selected").write_bytes(b"\x06\0\0\0" + name)
            loader = "systemd-boot 257.9-1~deb13u1\0".encode("utf-16-le")
            (self.firmware / "loader").write_bytes(b"\x06\0\0\0" + loader)

    def install(self) -> None:
        """Write the files, and run the distribution's own programs once."""
        mine = self.distribution
        line = mine.line.replace("@UUID@", self.uuids[""])
        files = {**mine.files, "etc/fstab": mine.fstab()}
        files = {name: text.replace("@LINE@", line) for name, text in files.items()}
        with self._mounted(mine.root):
            root = self.folder / "root"
            write(root, files, self.uuids)
            for swap in root.glob("swap.img"):
                swap.write_bytes(b"\0" * (1 << 20))
                swap.chmod(0o600)
                _run("mkswap", "--quiet", swap)
        if not mine.entry:
            made = self.session(_INSTALL, mine.root)
            assert made.status == 0, made.text

    def command_line(self) -> str:
        """The command line with which the boot loader starts the kernel, from the files that it
        reads.
        """
        mine = self.distribution
        if mine.entry:
            (line,) = self._boot_file(mine.entry).splitlines()[-1:]
            return line.removeprefix("options").strip()
        prefix = (self.firmware / "prefix").read_text().strip()
        point = "/boot" if "/boot" in self.devices else ""
        _, kernel, line = self._read(point, f"{prefix}/grub.cfg".lstrip("/")).split(maxsplit=2)
        return f"BOOT_IMAGE={kernel} {line.strip()}"

    def _boot_file(self, path: str) -> str:
        points = [p for p in self.devices if p and f"/{path}".startswith(p + "/")]
        point = max(points, key=len)
        return self._read(point, f"/{path}"[len(point) + 1 :])

    def _read(self, point: str, path: str) -> str:
        with self._mounted("", point):
            return (self.folder / "root" / path).read_text()

    @contextmanager
    def _mounted(self, subvolume: str, point: str = "") -> Iterator[None]:
        """Mount a filesystem, and with the root those of its partitions, without a session."""
        root = self.folder / "root"
        kind = ["-o", f"subvol={subvolume or '/'}"] if self._type(point) == "btrfs" else []
        _run("mount", *kind, self.devices[point], root)
        try:
            for other, device in self.devices.items():
                # Not into the top level, which is searched only for the boot loader's files.
                if other and not point and subvolume == self.distribution.root:
                    (root / other.lstrip("/")).mkdir(parents=True, exist_ok=True)
                    _run("mount", device, root / other.lstrip("/"))
            for other, name in self.distribution.mounts.items():
                if not point and subvolume:
                    (root / other.lstrip("/")).mkdir(parents=True, exist_ok=True)
                    _run("mount", "-o", f"subvol={name}", self.devices[""],
                         root / other.lstrip("/"))  # fmt: skip
            yield
        finally:
            _run("umount", "-R", root)

    def _type(self, point: str) -> str:
        return "ext4" if point else self.distribution.type

    def session(self, script: str, subvolume: str | None = None) -> Done:
        """Boot as the boot loader's configuration says, or that *subvolume*, mount its fstab, run
        *script*.
        """
        line = self.command_line() if subvolume is None else "none"
        if subvolume is None:
            words = [w for w in line.split() if w.startswith("rootflags=")]
            flags = words[-1].partition("=")[2].split(",") if words else []
            subvolume = next((f[7:] for f in flags if f.startswith("subvol=")), "")
        cmdline = self.folder / "cmdline"
        cmdline.write_text(line + "\n")
        (self.firmware / "session").write_text(
            "export PATH=/usr/local/bin:/usr/bin:/usr/sbin EDITOR=true LANG=C.UTF-8\n"
            f"ephemeroot() {{ {PROJECT}/.venv/bin/ephemeroot \"$@\"; }}\n"
            f"reboot() {{ exit {REBOOT}; }}\n"
            # Swapping would use this host's kernel.
            'swapon() { command swapon "$@" && swapoff "$@"; }\n'
            f"mount -a -t nobind,noswap\n{script}"
        )  # fmt: skip
        pairs = [f"{device.name}={self.uuids[point]}" for point, device in self.devices.items()]
        options = ["-o", f"subvol={subvolume}"] if subvolume else []
        mount = " ".join(["mount", *options, str(self.devices[""]), str(self.folder / "root")])
        enter = f"{mount}; cd {self.folder / 'root'}\n{_ENTER}"
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "sh", "-ec", enter, "sh", self.usr, self.firmware, cmdline,
             str(int(self.distribution.is_efi)), PROJECT, *pairs],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)


_INSTALL = """\
set -e
for tools in grub2 grub; do
  command -v $tools-install > /dev/null || continue
  where=$(findmnt -no SOURCE / | sed 's|\\[.*||')
  [ ! -d /sys/firmware/efi ] || where=
  [ ! -d /sys/firmware/efi ] || ! mountpoint -q /efi || where=--efi-directory=/efi
  $tools-install $where
  # By the installer, before this boot.
  find /boot -name 'core.*' -exec touch -d 2020-01-01 {} +
  $tools-mkconfig -o x
  exit
done
exit 1
"""


@contextmanager
def live_machine(distribution: Distribution, folder: Path) -> Iterator[LiveMachine]:
    """The machine, in the new directory *folder* (in memory)."""
    _run("mount", "-t", "tmpfs", "none", folder)
    with ExitStack() as stack:
        stack.callback(_run, "umount", folder)
        devices: dict[str, Path] = {}
        for point in ("", *distribution.partitions):
            kind = distribution.type if not point else "ext4"
            image = folder / f"disk{len(devices)}.img"
            image.touch()
            size = _SIZES[kind] if not point else 16
            _run("truncate", "-s", f"{size}M", image)
            _run(f"mkfs.{kind}", *_MKFS[kind], image)
            devices[point] = stack.enter_context(attached(image))
        for subvolume in distribution.subvolumes:
            _make_subvolume(devices[""], folder, subvolume)
        machine = LiveMachine(distribution, folder, devices)
        machine.install()
        yield machine


def _make_subvolume(device: Path, folder: Path, path: str) -> None:
    top = folder / "top"
    top.mkdir(exist_ok=True)
    _run("mount", device, top)
    _run("btrfs", "subvolume", "create", top / path)
    _run("umount", top)


def _uuid(device: Path) -> str:
    done = subprocess.run(["blkid", "-p", "-s", "UUID", "-o", "value", device],
                          check=True, capture_output=True, text=True)  # fmt: skip
    return done.stdout.strip()


def _run(*command: str | Path | Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)  # type: ignore[arg-type]
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def marked(name: str, command: str) -> str:
    return f"echo '{_NEVER}{name}'\n{command}\n"


def part(done: Done, name: str) -> str:
    """The output after that mark."""
    _, _, rest = done.text.partition(f"{_NEVER}{name}\n")
    return rest.partition(_NEVER)[0]


def init(machine: LiveMachine) -> list[str]:
    """The commands that `init` prints on the machine in its present state."""
    done = machine.session(marked("init", "ephemeroot init --json"))
    assert done.status == 0, done.text
    document = json.loads(part(done, "init"))
    return [command for step in document["steps"] for command in step["commands"]]
