"""`ephemeroot init`: its proposals for machines as installers leave them; following them gives a
configuration that `check` accepts.
"""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from btrfs_image import Disk, btrfsutil, fresh_disk
from ephemeroot import cli
from ephemeroot.backends import survey
from ephemeroot.config import replaced
from ephemeroot.config.syntax.toml_text import quote
from ephemeroot.init import presets

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n",
    "etc/group": "root:x:0:\nada:x:1000:\n",
    "etc/shadow": "root:*:::::::\nada:*:::::::\n",
    "etc/gshadow": "root:*::\nada:*::\n",
    "etc/hostname": "box\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "usr/lib/os-release": "ID=test\n",
    "usr/bin/dracut": "",
    "usr/lib/systemd/system/NetworkManager.service": "",
    "etc/NetworkManager/system-connections/home.nmconnection": "psk=secret\n",
    "var/log/syslog": "one line\n",
    "srv/empty/.": "",
    "var/lib/postgresql/15/main/PG_VERSION": "15\n",
}


class Installation:
    """A machine on a btrfs, its root mounted at ``root``."""

    def __init__(self, disk: Disk, uuid: str, where: Path) -> None:
        self.disk = disk
        self.uuid = uuid
        self.where = where
        self.root = where / "root"
        self.root.mkdir()

    def mount(self, subvolume: str) -> None:
        """Boot it, as far as the test needs."""
        self.unmount()
        options = f"subvol={subvolume}"
        subprocess.run(["mount", "-o", options, self.disk.loop, self.root], check=True)

    def boot_as(self, subvolume: str, files: dict[str, str]) -> None:
        """Install these files in a new subvolume, and boot it."""
        btrfsutil.create_subvolume(str(self.disk.top / subvolume))
        self.mount(subvolume)
        self.write(files)

    def unmount(self) -> None:
        subprocess.run(["umount", "-R", "-l", self.root], capture_output=True)

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith("/."):
                path.write_text(text.replace("@UUID@", self.uuid))

    def init(self, capsys: pytest.CaptureFixture[str]) -> str:
        before = _state(self.root)
        assert cli.main(["init", "--root", str(self.root)]) == 0
        assert _state(self.root) == before, "init changes nothing"
        return capsys.readouterr().out

    def steps(self, capsys: pytest.CaptureFixture[str]) -> list[str]:
        assert cli.main(["init", "--json", "--root", str(self.root)]) == 0
        document = json.loads(capsys.readouterr().out)
        return [command for step in document["steps"] for command in step["commands"]]

    def do(self, commands: list[str]) -> None:
        """Execute the commands in the machine itself, with this machine's programs."""
        ours = ("ephemeroot", "reboot", "apt", '"${EDITOR', "#")
        script = [c for c in commands if not c.startswith(ours)]
        (self.root / "mnt").mkdir(exist_ok=True)
        (self.root / "run").mkdir(exist_ok=True)
        with ExitStack() as stack:
            subprocess.run(["mount", "-t", "tmpfs", "run", self.root / "run"], check=True)
            stack.callback(_unmount, self.root / "run")
            for name in ("usr", "proc", "dev", "sys"):
                (self.root / name).mkdir(exist_ok=True)
                subprocess.run(["mount", "--rbind", f"/{name}", self.root / name], check=True)
                stack.callback(_unmount, self.root / name)
            for name in ("bin", "sbin", "lib", "lib64"):
                if not (self.root / name).is_symlink():
                    (self.root / name).symlink_to(f"usr/{name}")
            subprocess.run(
                ["chroot", self.root, "sh", "-ex"],
                input="\n".join(["PATH=/stubs:$PATH", *script]),
                text=True,
                check=True,
            )

    def configure(self, text: str) -> None:
        self.write({"etc/ephemeroot/ephemeroot.toml": text})

    def check(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        status = cli.main(["check", "--root", str(self.root)])
        return status, capsys.readouterr().out


def _unmount(path: Path) -> None:
    subprocess.run(["umount", "-R", "-l", path], check=True)


def _state(root: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.lstat().st_ctime_ns) for p in root.rglob("*"))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with fresh_disk(tmp_path) as disk:
        uuid = subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "UUID", disk.loop],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        one = Installation(disk, uuid, tmp_path)
        yield one
        one.unmount()


def debian(machine: Installation) -> None:
    """Debian's installer: all directories, including /boot, in @rootfs."""
    btrfsutil.create_subvolume(str(machine.disk.top / "@rootfs"))
    machine.mount("@rootfs")
    machine.write(ACCOUNTS | {
        "etc/fstab": "UUID=@UUID@ / btrfs defaults,subvol=@rootfs 0 0\n"
                     "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n",
        "boot/vmlinuz-6.12.0": "kernel",
        "boot/initrd.img-6.12.0": "image",
        "boot/grub/grub.cfg": "menu",
        "etc/default/grub": "",
        "usr/sbin/update-grub": "",
        "stubs/update-grub": "#!/bin/sh\ntouch /updated-grub\n",
        "usr/bin/apt-get": "",
    })  # fmt: skip
    (machine.root / "stubs/update-grub").chmod(0o755)


def test_proposes_steps_for_debian_as_installed(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    debian(installation)
    text = installation.init(capsys)
    configuration = tomllib.loads(text)
    assert configuration["root"]["btrfs"]["base"] == "@rootfs-base"
    assert configuration["root"]["btrfs"]["old-roots"] == "@rootfs-old_roots"
    assert configuration["root"]["btrfs"]["min-free"] == "10%"
    store = configuration["persistence"]["/persistent"]
    assert {"/var/log", "/etc/NetworkManager/system-connections", "/var/lib/postgresql"} <= set(
        store["directories"]
    )
    assert "/srv" not in store["directories"], "nothing is in it"
    assert {"file": "/etc/shadow", "method": "copy"} in store["files"]
    assert "/etc/machine-id" in store["files"]
    installation.configure(text)
    status, said = installation.check(capsys)
    assert status == 2
    assert "the kernel, initramfs or boot loader is on the wiped root" in said
    installation.do(installation.steps(capsys))
    status, said = installation.check(capsys)
    assert status == 0, said
    assert "error" not in said.replace("0 errors", "")
    fstab = (installation.root / "etc/fstab").read_text()
    assert f"UUID={installation.uuid} /boot btrfs subvol=@boot 0 0\n" in fstab
    assert (installation.root / "updated-grub").exists()
    top = installation.disk.top
    assert (top / "@boot/vmlinuz-6.12.0").read_text() == "kernel"
    assert "ephemeroot base create" in text
    assert btrfsutil.is_subvolume(str(top / "@persistent"))


def test_moves_a_swap_file_into_its_own_subvolume(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    debian(installation)
    (installation.root / "swapfile").write_bytes(b"\0" * 4086 + b"SWAPSPACE2" + b"\0" * (1 << 20))
    fstab = installation.root / "etc/fstab"
    fstab.write_text(fstab.read_text() + "/swapfile none swap sw,pri=5 0 0\n")
    text = installation.init(capsys)
    assert "Move swap off the root (/swapfile is on it)" in text
    commands = installation.steps(capsys)
    swapon = [command for command in commands if command.startswith("swapon")]
    assert swapon == ["swapon /swap/swapfile"]
    installation.do([command for command in commands if command not in swapon])
    assert not (installation.root / "swapfile").exists()
    lines = fstab.read_text()
    assert f"UUID={installation.uuid} /swap btrfs subvol=@swap,noatime 0 0\n" in lines
    assert "\n/swap/swapfile none swap sw,pri=5 0 0\n" in lines
    assert "/swapfile none swap" not in lines.replace("/swap/swapfile", "")
    moved = installation.disk.top / "@swap/swapfile"
    assert moved.stat().st_size == 4096 + (1 << 20)
    subprocess.run(["swapon", moved], check=True)
    subprocess.run(["swapoff", moved], check=True)
    assert "Move swap off the root" not in installation.init(capsys)


def test_init_can_be_run_again_when_no_step_remains(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    debian(installation)
    installation.do(installation.steps(capsys))
    again = installation.steps(capsys)
    assert not [c for c in again if "@persistent" in c or "@boot" in c], again


def test_proposes_steps_for_arch_with_subvolumes(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    """fstab from genfstab names the root by its number as well, and /home is not part of
    the root.
    """
    for name in ("@", "@home"):
        btrfsutil.create_subvolume(str(installation.disk.top / name))
    installation.mount("@")
    installation.write(ACCOUNTS | {
        "etc/fstab": "UUID=@UUID@ / btrfs rw,relatime,subvolid=256,subvol=/@ 0 0\n"
                     "UUID=@UUID@ /home btrfs rw,relatime,subvolid=257,subvol=/@home 0 0\n"
                     "UUID=C0DE-F00D /boot vfat rw 0 2\n",
        "etc/kernel/cmdline": "root=UUID=@UUID@ rootflags=subvol=@ rw\n",
        "home/ada/.": "",
        "etc/mkinitcpio.conf": "HOOKS=(base udev block encrypt filesystems)\n",
        "boot/vmlinuz-linux": "kernel",
    })  # fmt: skip
    (installation.root / "usr/bin/dracut").unlink()
    installation.write({"usr/bin/mkinitcpio": ""})
    text = installation.init(capsys)
    assert "ephemeroot setup mkinitcpio" in text
    assert cli.main(["setup", "mkinitcpio", "--root", str(installation.root)]) == 0
    capsys.readouterr()
    assert "ephemeroot setup" not in installation.init(capsys)
    configuration = tomllib.loads(text)
    assert "/home" not in configuration["persistence"]["/persistent"]["directories"]
    assert configuration["root"]["btrfs"]["base"] == "@-base"
    right = "HOOKS=(base udev block encrypt ephemeroot filesystems)"
    assert f"sed -i 's|^HOOKS=.*|{right}|' /etc/mkinitcpio.conf\n" in text
    installation.configure(text)
    assert installation.check(capsys)[0] == 2
    installation.do(installation.steps(capsys))
    status, said = installation.check(capsys)
    assert status == 0, said
    line = (installation.root / "etc/fstab").read_text().splitlines()[0]
    assert "subvolid" not in line
    assert "subvol=/@" in line
    assert (installation.root / "etc/mkinitcpio.conf").read_text() == f"{right}\n"


def test_proposes_steps_for_opensuse_with_snapper(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    """The root is a snapshot of snapper, which is the default subvolume and has no name on the
    command line.
    """
    top = installation.disk.top
    for name in ("@", "@/.snapshots", "@/var", "@/home"):
        btrfsutil.create_subvolume(str(top / name))
    (top / "@/.snapshots/1").mkdir()
    btrfsutil.create_subvolume(str(top / "@/.snapshots/1/snapshot"))
    installation.mount("@/.snapshots/1/snapshot")
    installation.write(ACCOUNTS | {
        "etc/fstab": "UUID=@UUID@ / btrfs noatime,subvolid=7,compress=zstd:1 0 0\n"
                     "UUID=@UUID@ /var btrfs subvol=/@/var 0 0\n"
                     "UUID=@UUID@ /home btrfs subvol=/@/home 0 0\n"
                     "UUID=C0DE-F00D /boot vfat rw 0 2\n",
        "etc/default/grub": "",
        "usr/sbin/grub2-mkconfig": "",
        "stubs/grub2-mkconfig": "#!/bin/sh\n",
    })  # fmt: skip
    (installation.root / "stubs/grub2-mkconfig").chmod(0o755)
    commands = installation.steps(capsys)
    installation.do(commands[: commands.index("reboot")])
    installation.mount("@ephemeral")
    line = (installation.root / "etc/fstab").read_text().splitlines()[0]
    assert line.split()[3] == "subvol=@ephemeral,noatime,compress=zstd:1"
    installation.write({"etc/kernel/cmdline": "root=UUID=@UUID@ rootflags=subvol=@ephemeral\n"})
    text = installation.init(capsys)
    directories = tomllib.loads(text)["persistence"]["/persistent"]["directories"]
    assert not [path for path in directories if path.startswith(("/var", "/home"))]
    installation.configure(text)
    installation.do(installation.steps(capsys))
    status, said = installation.check(capsys)
    assert status == 0, said
    assert btrfsutil.is_subvolume(str(top / "@ephemeral"))


def test_proposes_steps_for_a_root_at_the_top_level(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.mount("/")
    installation.write(ACCOUNTS | {
        "etc/fstab": "UUID=@UUID@ / btrfs defaults 0 0\nUUID=C0DE-F00D /boot vfat rw 0 2\n",
    })  # fmt: skip
    commands = installation.steps(capsys)
    installation.do(commands[: commands.index("reboot")])
    installation.mount("ephemeral")
    installation.write({"etc/kernel/cmdline": "root=UUID=@UUID@ rootflags=subvol=ephemeral\n"})
    text = installation.init(capsys)
    installation.configure(text)
    installation.do(installation.steps(capsys))
    status, said = installation.check(capsys)
    assert status == 0, said
    assert (installation.disk.top / "persistent").is_dir()


@pytest.mark.parametrize("home", [True, False])
def test_proposes_an_overlay_for_ext4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: bool
) -> None:
    """If /home is a volume, the store is placed there, otherwise in a directory of the root."""
    root = tmp_path / "machine"
    volume = "LABEL=home /home ext4 defaults 0 2\n" if home else ""
    machine = {
        "etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\n"
        f"LABEL=boot /boot ext4 ro 0 2\n{volume}"
    }
    for name, content in {**ACCOUNTS, **machine}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/."):
            path.write_text(content)
    assert cli.main(["init", "--root", str(root)]) == 0
    text = capsys.readouterr().out
    configuration = tomllib.loads(text)
    assert configuration["root"]["wiper"] == "overlay"
    assert configuration["root"]["overlay"]["type"] == "ext4"
    # A layer in memory leaves nothing behind that could fill a disk.
    assert configuration["root"]["overlay"].get("min-free") == ("10%" if home else None)
    store = "/home/persistent" if home else "/persistent"
    assert list(configuration["persistence"]) == [store]
    (root / "etc/ephemeroot").mkdir()
    (root / "etc/ephemeroot/ephemeroot.toml").write_text(text)
    volumes = {one["mount-point"]: one["options"] for one in configuration.get("volumes", [])}
    wanted = {} if home else {"/persistent": ["X-mount.subdir=persistent"]}
    assert volumes == wanted
    assert cli.main(["check", "--root", str(root)]) == 2
    (root / store[1:]).mkdir(parents=True)  # another of its commands
    capsys.readouterr()
    assert cli.main(["init", "--json", "--root", str(root)]) == 0
    document = json.loads(capsys.readouterr().out)
    edits = [c for s in document["steps"] for c in s["commands"] if "/etc/fstab" in c]
    assert bool(edits) == home
    for edit in edits:
        command = edit.replace("/etc/fstab", str(root / "etc/fstab"))
        subprocess.run(["sh", "-ec", command], check=True)
    assert cli.main(["check", "--root", str(root)]) == 0, capsys.readouterr().out


def test_proposes_a_rotation_for_zfs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in {
        **ACCOUNTS,
        "etc/fstab": "tank/ROOT/debian / zfs defaults 0 0\nLABEL=boot /boot ext4 defaults 0 2\n",
        "etc/kernel/cmdline": "root=zfs:AUTO\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/."):
            path.write_text(content)
    assert cli.main(["init", "--json", "--root", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    configuration = tomllib.loads(document["configuration"])
    assert configuration["root"]["zfs"]["base"] == "tank/ROOT/base"
    assert configuration["root"]["zfs"]["min-free"] == "10%"
    first = [c for s in document["steps"] for c in s["commands"]]
    assert any("root=zfs:tank/ROOT/debian" in c for c in first)
    assert (first[-1], document["again-after-reboot"]) == ("reboot", True)
    (tmp_path / "etc/ephemeroot").mkdir()
    (tmp_path / "etc/ephemeroot/ephemeroot.toml").write_text(document["configuration"])
    assert cli.main(["check", "--root", str(tmp_path)]) == 2
    (tmp_path / "etc/kernel/cmdline").write_text("root=zfs:tank/ROOT/debian\n")
    capsys.readouterr()
    assert cli.main(["init", "--json", "--root", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    commands = [c for s in document["steps"] for c in s["commands"]]
    assert "zfs snapshot tank/ROOT/debian@blank" in commands
    assert not document["again-after-reboot"]
    for command in commands:
        if "/etc/fstab" in command:
            edit = command.replace("/etc/fstab", str(tmp_path / "etc/fstab"))
            subprocess.run(["sh", "-ec", edit], check=True)
    assert cli.main(["check", "--root", str(tmp_path)]) == 0, capsys.readouterr().out


def test_refuses_a_directory_that_is_not_an_installation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "etc").mkdir()
    assert cli.main(["init", "--root", str(tmp_path)]) == 1
    assert "not a mount point" in capsys.readouterr().err
    (tmp_path / "etc/fstab").write_text("none / tmpfs defaults 0 0\n")
    assert cli.main(["init", "--root", str(tmp_path)]) == 1
    assert "tmpfs: not an installed system" in capsys.readouterr().err


def test_every_preset_is_valid() -> None:
    titles = []
    for preset in presets.load():
        assert set(preset) <= presets.KEYS, preset
        titles.append(preset["title"])
        kinds = ("directories", "filled", "files", "copies")
        paths = [path for kind in kinds for path in preset.get(kind, ())]
        assert paths, preset
        for path in [*paths, *preset.get("paths", ())]:
            assert path.startswith("/")
            assert os.path.normpath(path) == path
    assert len(titles) == len(set(titles))


EVERYWHERE = {
    "/etc/hostname", "/etc/hosts", "/etc/localtime", "/etc/passwd", "/etc/shadow", "/var/log",
    "/home", "/root", "/opt", "/usr/local", "/srv", "/var/spool/cron", "/etc/machine-id",
    "/etc/ssh/ssh_host_rsa_key", "/etc/NetworkManager/system-connections",
}  # fmt: skip
OWN = {
    "systemd": {
        "/etc/systemd/system", "/etc/systemd/network", "/etc/locale.conf", "/etc/vconsole.conf",
        "/etc/X11/xorg.conf.d/00-keyboard.conf", "/etc/machine-info", "/etc/default/keyboard",
        "/etc/default/locale", "/etc/timezone", "/var/lib/systemd", "/etc/netplan",
    },
    "openrc": {
        "/etc/runlevels", "/etc/conf.d/hostname", "/etc/conf.d/keymaps", "/etc/conf.d/net",
        "/etc/env.d/02locale", "/etc/timezone", "/etc/conf.d/hwclock",
    },
    "runit": {
        "/etc/runit/runsvdir", "/etc/rc.conf", "/etc/default/libc-locales", "/etc/dhcpcd.conf",
    },
}  # fmt: skip
_DIRECTORIES = {"log", "home", "root", "opt", "local", "srv", "cron", "system-connections",
                "system", "network", "systemd", "netplan", "runlevels", "runsvdir"}  # fmt: skip


@pytest.mark.parametrize("init", OWN)
def test_the_proposal_has_the_tasks_of_the_first_day_for_each_init_system(
    tmp_path: Path, init: str
) -> None:
    wanted = EVERYWHERE | OWN[init]
    (tmp_path / "etc/runit").mkdir(parents=True) if init == "runit" else None
    for path in wanted:
        place = tmp_path / path[1:]
        if place.name in _DIRECTORIES:
            place = place / "content"
        place.parent.mkdir(parents=True, exist_ok=True)
        if path == "/etc/localtime":
            place.symlink_to("../usr/share/zoneinfo/Europe/Berlin")
        else:
            place.write_text("x")
    found = presets.found(str(tmp_path), presets.load())
    paths = {p for one in found for p in (*one.directories, *one.files, *one.copies)}
    assert wanted - paths == set()
    assert paths - wanted == set()
    bound = {path for one in found for path in one.files}
    assert {path for path in bound if replaced.method(path)} <= {"/etc/machine-id"}


def test_proposes_each_file_in_etc_with_a_working_method() -> None:
    for preset in presets.load():
        for path in preset.get("copies", ()):
            assert replaced.method(path) == "copy", path


def test_refuses_to_bind_over_a_link(tmp_path: Path) -> None:
    (tmp_path / "var/lib/real").mkdir(parents=True)
    (tmp_path / "var/lib/colord").symlink_to("real")
    asked = [{"title": "x", "directories": ["/var/lib/colord", "/var/lib/real"]}]
    assert presets.found(str(tmp_path), asked)[0].directories == ("/var/lib/real",)


def test_names_the_device_as_fstab_does(installation: Installation) -> None:
    debian(installation)
    found = survey.of(str(installation.root))
    assert found.device == f"UUID={installation.uuid}"
    assert (found.type, found.inner, found.named) == ("btrfs", "@rootfs", True)


@pytest.mark.parametrize("text", ["plain", 'a"b\\c', "new\nline", "tab\t\x7f\x01", "grüße", "☃"])
def test_quoted_text_reads_back(text: str) -> None:
    assert tomllib.loads(f"x = {quote(text)}")["x"] == text


def test_bytes_that_are_not_text_cannot_be_quoted() -> None:
    with pytest.raises(UnicodeEncodeError):
        quote("\udcff")


@pytest.mark.parametrize("sign", ["cmdline", "sysroot/ostree/repo/config", "run/ostree-booted"])
def test_refuses_an_ostree_deployment(
    installation: Installation, capsys: pytest.CaptureFixture[str], sign: str
) -> None:
    installation.boot_as("root", ACCOUNTS)
    if sign == "cmdline":
        line = "root=UUID=@UUID@ rootflags=subvol=root ostree=/ostree/boot.1/os/0123/0\n"
        installation.write({"etc/kernel/cmdline": line})
    else:
        installation.write({sign: ""})
    assert cli.main(["init", "--root", str(installation.root)]) == 1
    assert "ostree deployment" in capsys.readouterr().err


def test_refuses_a_root_that_is_a_plain_directory(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.boot_as("root", ACCOUNTS)
    inner = installation.root / "deployments/one"
    inner.mkdir(parents=True)
    place = installation.where / "bound"
    place.mkdir()
    subprocess.run(["mount", "--bind", inner, place], check=True)
    try:
        assert cli.main(["init", "--root", str(place)]) == 1
    finally:
        _unmount(place)
    assert "not a subvolume" in capsys.readouterr().err


def test_names_the_device_if_the_command_line_has_no_root(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.boot_as("root", ACCOUNTS | {
        "etc/kernel/cmdline": "rootflags=subvol=root rw quiet\n",
        "etc/fstab": "UUID=C0DE-F00D /boot vfat rw 0 2\n",
    })  # fmt: skip
    text = installation.init(capsys)
    found = tomllib.loads(text)["root"]["btrfs"]
    assert found["device"] in (f"UUID={installation.uuid}", installation.disk.loop)
    installation.configure(text)
    installation.do(installation.steps(capsys))
    assert installation.check(capsys)[0] == 0
    installation.configure(text.replace("device = ", "# device = "))
    status, said = installation.check(capsys)
    assert status == 2
    assert "root= does not name the device of the root" in said


def test_edits_boot_loader_entries_with_grubby(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    """On Fedora, GRUB_CMDLINE_LINUX and grub2-mkconfig do not change the entries."""
    installation.boot_as("root", ACCOUNTS | {
        "etc/fstab": "UUID=@UUID@ / btrfs subvol=root 0 0\nUUID=C0DE-F00D /boot vfat rw 0 2\n",
        "etc/kernel/cmdline": "root=UUID=@UUID@ rootflags=compress=zstd:1 ro quiet\n",
        "etc/default/grub": "GRUB_ENABLE_BLSCFG=true\n",
        "boot/loader/entries/0-6.9.1.conf": "options root=UUID=@UUID@ ro\n",
        "usr/sbin/grubby": "",
        "usr/sbin/grub2-mkconfig": "",
    })  # fmt: skip
    steps = installation.steps(capsys)
    words = "rootflags=compress=zstd:1,subvol=root"
    assert f"grubby --update-kernel=ALL --args={words}" in steps
    assert f"sed -i '1s|$| {words}|' /etc/kernel/cmdline" in steps
    assert not any("grub2-mkconfig" in command for command in steps)
