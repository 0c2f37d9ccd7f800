"""`base run` in its own mount namespace: it changes the files that boot, and no others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernel_images
from base_machine import RUNNING, Machine
from btrfs_image import btrfsutil, fresh_disk
from checkout import CHECKOUT
from loop_device import attached

pytestmark = pytest.mark.requires_loop

NEW = "9.9.9-test"
# Where the ESP may be, and which other filesystems can hold a boot loader's files.
PLACES = ("/efi", "/esp", "/boot/efi", "/boot/efi2", "/boot/grub", "/mnt/esp", "/srv/odd")
AUTOMOUNT = CHECKOUT / "tests/support/automount.py"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path, 512) as disk:
        made = Machine(disk, tmp_path / "machine")
        made.create()
        yield made


def run(
    machine: Machine, mounts: str, script: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run *script* with ``base run`` in a machine at /, after the shell script *mounts*."""
    machine.disk.sync()
    inner = machine.base_words("run", *words, "--", "sh", "-ec", script)
    entered = len(machine.words())
    return subprocess.run(
        [*inner[:entered], "sh", "-ec", f'{mounts}\n"$@"', "sh", *inner[entered:]],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_undoes_a_failed_run_on_every_boot_filesystem(machine: Machine) -> None:
    mounts = "".join(
        f"mkdir -p {place}; mount -t tmpfs tmpfs {place}; mkdir -p {place}/EFI/Linux; "
        f"echo old > {place}/EFI/Linux/os.efi\n"
        for place in PLACES
    )
    script = "".join(
        f"echo new > {place}/EFI/Linux/os.efi; echo new > {place}/more\n" for place in PLACES
    )
    look = "".join(f"cat {place}/EFI/Linux/os.efi; ls -A {place}\n" for place in PLACES)
    done = run(machine, f"{mounts}\nset +e", f"{script}\nexit 1")
    assert done.returncode == 1
    for place in PLACES:
        assert f"save {place}" in done.stdout.splitlines()
        assert f"restore 2 files of {place}" in done.stdout
    # The namespace ends with the script, so the script itself prints the state to check.
    inner = machine.base_words("run", "--", "sh", "-ec", f"{script}\nexit 1")
    entered = len(machine.words())
    shown = subprocess.run(
        [*inner[:entered], "sh", "-ec", f'{mounts}\n"$@" > /dev/null || :\n{look}', "sh",
         *inner[entered:]],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert shown.stdout.split() == ["old", "EFI"] * len(PLACES)


@pytest.mark.requires_program("mkfs.ext4")
def test_a_file_for_an_idle_automount_is_written_to_its_filesystem(
    machine: Machine, tmp_path: Path
) -> None:
    image, files = tmp_path / "esp", tmp_path / "files"
    (files / "EFI/BOOT").mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", files, image], check=True)
    with attached(image) as loop:
        mounts = f"""
            mkdir /efi; mkfifo /run/ready
            python3 {AUTOMOUNT} /efi {loop} ext4 > /run/ready & daemon=$!
            trap 'kill $daemon; umount -l /efi /efi' EXIT
            read word < /run/ready
        """
        done = run(machine, mounts, "mkdir /efi/EFI/Linux; echo new > /efi/EFI/Linux/new.efi")
        assert done.returncode == 0, done.stderr
        assert "save /efi" in done.stdout
        there = tmp_path / "there"
        there.mkdir()
        script = 'mount -o ro "$1" "$2"; cat "$2/EFI/Linux/new.efi"'
        words = ["unshare", "--mount", "sh", "-ec", script, "sh", str(loop), str(there)]
        read = subprocess.run(words, capture_output=True, text=True, check=True)
    assert read.stdout == "new\n"
    assert not (machine.path / "efi").exists() or os.listdir(machine.path / "efi") == []


def test_refuses_an_automount_that_cannot_be_mounted(machine: Machine) -> None:
    before = machine.state()
    mounts = f"""
        mkdir /efi; mkfifo /run/ready
        python3 {AUTOMOUNT} /efi /dev/no1 ext4 > /run/ready 2> /dev/null & daemon=$!
        trap 'kill $daemon; umount -l /efi' EXIT
        read word < /run/ready
    """
    done = run(machine, mounts, "echo new > /efi/new.efi")
    assert done.returncode == 1
    assert "the automount at /efi does not mount its filesystem" in done.stderr
    assert machine.state() == before


def test_refuses_a_boot_filesystem_that_is_not_mounted(machine: Machine) -> None:
    before = machine.state()
    (machine.top / "root/etc/fstab").write_text("/dev/no1 /efi vfat noauto 0 2\n")
    for words in ([], ["--dry-run"]):
        done = run(machine, "", "echo new > /efi/new.efi", *words)
        assert done.returncode == 1
        assert "/efi is not mounted, but /etc/fstab has a filesystem for it" in done.stderr
        assert "run 'mount /efi'" in done.stderr
    assert machine.state() == before


def test_a_mount_point_that_only_the_base_declares_is_read_only_and_removable(
    machine: Machine,
) -> None:
    (machine.path / "etc/fstab").write_text("/dev/no1 /efi vfat noauto 0 2\n")
    done = run(machine, "", "mkdir /efi; echo new > /efi/new.efi")
    assert done.returncode == 1
    assert "wrote /efi/new.efi into the base, below the mount point /efi" in done.stderr
    assert run(machine, "", "rm /etc/fstab").returncode == 0
    assert run(machine, "", "mkdir /efi; echo new > /efi/new.efi").returncode == 0


@pytest.mark.parametrize(
    "script",
    [
        "umount -l /boot; echo new > /boot/new",
        (
            "mkdir /run/all; mount --bind / /run/all; mkdir -p /run/all/boot/deep; "
            "echo new > /run/all/boot/deep/new"
        ),
    ],
)
def test_refuses_files_written_below_a_mount_point(machine: Machine, script: str) -> None:
    before = machine.state()
    done = run(machine, "", script)
    assert done.returncode == 1
    assert "into the base, below the mount point /boot" in done.stderr
    assert machine.state() == before


UPPER = "upperdir=/run/u,workdir=/run/w"
EXTENSIONS = {
    "sysext": "mount -t overlay sysext -o lowerdir=/run/ext:/opt /opt",
    "confext": "mount -t overlay confext -o lowerdir=/run/ext:/etc /etc",
    "mutable": f"mount -t overlay sysext -o lowerdir=/run/ext:/opt,{UPPER} /opt",
    "marked": "mkdir /run/ext/.systemd-sysext; mount -t overlay overlay -o lowerdir=/run/ext:/opt,"
    f"{UPPER} /opt",
    "by-hand": f"mount -t overlay overlay -o lowerdir=/opt,{UPPER} /opt",
}


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_leaves_out_overlays_mounted_over_the_root(machine: Machine, kind: str) -> None:
    place = "/etc" if kind == "confext" else "/opt"
    for tree in (machine.top / "root", machine.path):
        (tree / place[1:]).mkdir(exist_ok=True)
        (tree / place[1:] / "own").write_text("own")
    mounts = f"""
        mount -t tmpfs tmpfs /run; mkdir -p /run/ext /run/u /run/w; echo x > /run/ext/of-extension
        {EXTENSIONS[kind]}
    """
    done = run(machine, mounts, f"test ! -e {place}/of-extension; echo new > {place}/new")
    assert done.returncode == 0, done.stderr
    assert f"leave out {place}" in done.stdout
    assert (machine.path / place[1:] / "new").read_text() == "new\n"


def test_does_not_leave_out_an_overlay_that_every_boot_mounts(machine: Machine) -> None:
    for tree in (machine.top / "root", machine.path):
        (tree / "opt").mkdir()
        (tree / "opt/own").write_text("own")
        (tree / "etc/fstab").write_text("overlay /opt overlay lowerdir=/opt,upperdir=/u 0 0\n")
    mounts = f"""
        mount -t tmpfs tmpfs /run; mkdir -p /run/u /run/w
        {EXTENSIONS["by-hand"]}
    """
    done = run(machine, mounts, "echo new > /opt/new")
    assert done.returncode == 0, done.stderr
    assert not (machine.path / "opt/new").exists()


@pytest.mark.parametrize("name", ["vmlinuz-linux", "a1b2/9.9.9-test/linux", "EFI/Linux/os.efi"])
def test_requires_modules_for_a_kernel_whose_name_has_no_version(
    machine: Machine, name: str
) -> None:
    kind = "unified" if name.endswith(".efi") else "bzimage"
    (machine.run_folder / "kernel").write_bytes(kernel_images.FORMATS[kind](NEW))
    before = machine.state()
    install = f"mkdir -p $(dirname /boot/{name}); cp /run/kernel /boot/{name}"
    done = machine.run(install)
    assert done.returncode == 1
    assert f"/boot/{name} would find no modules in the new base: it is the kernel {NEW}" in (
        done.stderr
    )
    assert machine.state() == before
    done = machine.run(f"{install}; mkdir /lib/modules/{NEW}")
    assert done.returncode == 0, done.stderr
    done = machine.run(f"rmdir /lib/modules/{NEW}")
    assert done.returncode == 1
    assert sorted(os.listdir(machine.path / "lib/modules")) == sorted([NEW, RUNNING])


def test_asks_about_a_kernel_that_cannot_be_read(machine: Machine) -> None:
    before = machine.state()
    install = "head -c 70000 /dev/urandom > /boot/vmlinuz-odd"
    done = machine.run(install)
    assert done.returncode == 1
    assert "cannot read the kernel release of /boot/vmlinuz-odd" in done.stderr
    assert "'ephemeroot base run --yes'" in done.stderr
    assert machine.state() == before
    done = run(machine, "", install, "--yes")
    assert done.returncode == 0, done.stderr
    assert "cannot read the kernel release of /boot/vmlinuz-odd" in done.stderr


COPY = r"sed -n 's:^\S* \S* \S* /\(\S*\) / .*:\1:p' /proc/self/mountinfo | tail -n 1"
ENTRY = "linux /vmlinuz root=UUID=x rootflags=subvol=$copy"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grub/grub-btrfs.cfg", f"submenu 'a' {{ {ENTRY} }}"),
        ("grub2/snapshot_submenu.cfg", ENTRY),
        ("grub/subvolumes.cfg", f"{ENTRY}\nlinux /vmlinuz rootflags=subvol=root-base"),
    ],
)
def test_a_list_of_snapshots_gets_the_name_of_the_new_base(
    machine: Machine, name: str, text: str
) -> None:
    script = f'copy=$({COPY}); mkdir -p /boot/grub /boot/grub2; echo "{text}" > /boot/{name}'
    done = machine.run(script)
    assert done.returncode == 0, done.stderr
    assert f"/boot/{name} lists snapshots: name the new base root-base in it" in done.stdout
    written = (machine.boot / name).read_text()
    assert written == text.replace("$copy", "root-base") + "\n"
    assert machine.strays() == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("grub/grub.cfg", "a script in /etc/grub.d lists subvolumes"),
        ("loader/entries/a.conf", "/etc/kernel/cmdline"),
        ("limine.conf", "limine-snapper-sync"),
        ("odd.cfg", "the program that writes this file"),
    ],
)
def test_refuses_a_boot_entry_that_names_the_copy(machine: Machine, name: str, hint: str) -> None:
    before = machine.state()
    head = "# This file was generated by my-writer, do not edit"
    script = (
        f'copy=$({COPY}); mkdir -p $(dirname /boot/{name}); echo "{head}\n{ENTRY}" > /boot/{name}'
    )
    done = machine.run(script)
    assert done.returncode == 1
    assert f"/boot/{name} was generated by my-writer for the temporary subvolume .root-base." in (
        done.stderr
    )
    assert hint in done.stderr
    assert machine.state() == before


def test_refuses_new_content_that_every_future_root_would_contain(machine: Machine) -> None:
    before = machine.state()
    for script, said in {
        "touch /.autorelabel": "/.autorelabel would be in every new root",
        "btrfs -q subvolume create /opt; touch /opt/x": "/opt is a nested subvolume",
    }.items():
        done = machine.run(script)
        assert done.returncode == 1
        assert said in done.stderr
        assert machine.state() == before
    # Content that the base has already is named, and the command that removes it is allowed.
    (machine.path / ".autorelabel").touch()
    done = machine.run("true")
    assert done.returncode == 0, done.stderr
    assert "warning: /.autorelabel would be in every new root" in done.stdout
    done = machine.run("rm /.autorelabel")
    assert (done.returncode, "warning" in done.stdout) == (0, False)


def test_base_create_names_content_that_a_base_must_not_have(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 512) as disk:
        machine = Machine(disk, tmp_path / "machine")
        root = machine.top / "root"
        (root / ".autorelabel").touch()
        btrfsutil.create_subvolume(str(root / "opt"))
        (root / "opt/program").touch()
        done = machine.base("create")
        assert done.returncode == 1
        assert "/.autorelabel would be in every new root" in done.stderr
        assert "/opt is a nested subvolume of the root" in done.stderr
        assert not machine.path.exists()


@pytest.mark.requires_program("mkswap")
def test_names_a_swap_file_in_use(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 512) as disk:
        machine = Machine(disk, tmp_path / "machine")
        swap = machine.top / "root/data"
        make = 'truncate -s 0 "$1"; chattr +C "$1"; fallocate -l 16M "$1"; chmod 600 "$1"; '
        words = ["sh", "-ec", make + 'mkswap -q "$1"; swapon "$1"', "sh", str(swap)]
        subprocess.run(words, check=True)
        try:
            done = machine.base("create")
        finally:
            subprocess.run(["swapoff", str(swap)], check=True)
        assert done.returncode == 1
        assert "swap file" in done.stderr
        assert "swapoff" in done.stderr
        assert "Text file busy" not in done.stderr
        assert not machine.path.exists()
        assert machine.strays() == []


def test_checks_a_boot_directory_on_the_root_itself(machine: Machine) -> None:
    for tree in (machine.top / "root", machine.path):
        (tree / "boot/grub").mkdir(parents=True)
    (machine.run_folder / "kernel").write_bytes(kernel_images.FORMATS["bzimage"](NEW))
    unmounted = "umount -l /boot"
    done = run(machine, unmounted, "cp /run/kernel /boot/vmlinuz-linux")
    assert done.returncode == 1
    assert "/boot/vmlinuz-linux would find no modules in the new base" in done.stderr
    write = f'copy=$({COPY}); echo "{ENTRY}" > /boot/grub'
    done = run(machine, unmounted, f"{write}/grub.cfg")
    assert (done.returncode, "/boot/grub/grub.cfg was generated for" in done.stderr) == (1, True)
    done = run(machine, unmounted, f"{write}/grub-btrfs.cfg")
    assert done.returncode == 0, done.stderr
    assert "subvol=root-base\n" in (machine.path / "boot/grub/grub-btrfs.cfg").read_text()


def test_immutable_files_do_not_prevent_a_run(tmp_path: Path) -> None:
    with fresh_disk(tmp_path, 512) as disk:
        machine = Machine(disk, tmp_path / "machine")
        modules = machine.top / "root/lib/modules" / RUNNING
        places = [modules / "modules.dep", modules, modules.parent]
        subprocess.run(["chattr", "+i", *places], check=True)
        try:
            machine.create()
            subprocess.run(["chattr", "+i", machine.path], check=True)
            for script, status in (("exit 1", 1), ("echo 1 > /etc/number", 0), ("true", 0)):
                assert machine.run(script).returncode == status
                assert machine.strays() == []
            done = machine.base("rollback", "--yes")
            assert done.returncode == 0, done.stderr
        finally:
            subprocess.run(["chattr", "-R", "-f", "-i", machine.top], check=False)
