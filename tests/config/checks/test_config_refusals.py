"""Configurations that would destroy a machine or keep it from booting are refused
(docs/design.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ephemeroot.config import examine, read
from machine_tree import DEVICE, FSTAB, MAIN, ROOT, SOUND, STORE, VOLUME, MachineTree

EMPTY = SOUND.replace('base = "root-base"\n', "")
USR = f'[[volumes]]\nmount-point = "/usr"\ndevice = "{DEVICE}"\ntype = "btrfs"\noptions = ["subvol=usr"]\n'  # noqa: E501
DATABASES = ["/var/lib/dpkg", "/var/lib/rpm", "/var/lib/pacman", "/var/db/xbps", "/var/db/pkg"]


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def test_refuses_an_empty_root_without_a_volume_for_usr(tree: MachineTree) -> None:
    tree.write(MAIN, EMPTY)
    assert "it is empty, and /usr is not a volume needed for boot" in tree.complaint()
    assert "add a volume for /usr, or set base" in tree.complaint()
    tree.write(MAIN, EMPTY + USR)
    assert tree.errors() == []


def test_refuses_an_empty_root_with_usr_mounted_by_the_system(tree: MachineTree) -> None:
    tree.write(MAIN, EMPTY)
    tree.write("etc/fstab", f"{FSTAB}{DEVICE} /usr btrfs subvol=usr,ro 0 0\n")
    assert f"{DEVICE}  /usr  btrfs  subvol=usr,ro,x-initrd.mount  0  0" in tree.complaint()
    tree.write("etc/fstab", f"{FSTAB}{DEVICE} /usr btrfs subvol=usr,ro,x-initrd.mount 0 0\n")
    assert tree.errors() == []


@pytest.mark.parametrize(
    "file",
    ["boot/vmlinuz-6.12", "boot/initrd.img", "boot/initramfs-linux.img", "boot/grub/grub.cfg",
     "boot/efi/EFI/BOOT/BOOTX64.EFI", "efi/EFI/Linux/linux.efi"],
)  # fmt: skip
def test_refuses_boot_files_on_the_root(tree: MachineTree, file: str) -> None:
    tree.write(file, "x")
    assert "the kernel, initramfs or boot loader is on the wiped root: /" in tree.complaint()
    assert "external-boot = true" in tree.complaint()


def test_boot_files_on_another_filesystem(tree: MachineTree) -> None:
    tree.write("boot/vmlinuz", "x")
    tree.write("etc/fstab", f"{FSTAB}LABEL=boot /boot ext4 defaults 0 2\n")
    assert tree.errors() == []
    tree.write("etc/fstab", FSTAB)
    assert tree.errors()
    tree.write(MAIN, SOUND.replace("[root]", "[root]\nexternal-boot = true"))
    assert tree.errors() == []
    declared = SOUND.replace('["/var/log"]', '["/var/log", "/boot"]')
    tree.write(MAIN, declared)
    assert "the boot loader reads the files of the base" in tree.complaint()
    tree.write(MAIN, declared.replace("[root]", "[root]\nexternal-boot = true"))
    assert tree.errors() == []


def test_accepts_boot_files_on_a_mounted_filesystem(tree: MachineTree) -> None:
    """It is mounted by an automount that is not in fstab (systemd-gpt-auto-generator)."""
    tree.write("efi/EFI/x", "x")
    machine = replace(tree.machine, mounted=frozenset({"/", "/efi"}))
    assert examine(read(machine), machine).errors == []


@pytest.mark.parametrize("database", DATABASES)
def test_refuses_a_persistent_package_database_with_a_base(
    tree: MachineTree, database: str
) -> None:
    tree.write(MAIN, SOUND.replace('["/var/log"]', f'["/var/log", "{database}"]'))
    assert tree.complaint().startswith(
        f"the package database {database} persists, but /usr comes from the base"
    )


@pytest.mark.parametrize("directory", ["/var/lib", "/var"])
def test_accepts_a_package_database_that_persists_with_its_system(
    tree: MachineTree, directory: str
) -> None:
    configuration = SOUND.replace('["/var/log"]', f'["{directory}"]')
    if directory == "/var/lib":
        configuration = configuration.replace('["/var/lib"]', '["/var/log", "/var/lib"]')
    tree.write(MAIN, configuration)
    assert tree.errors() == []  # there is no package manager here
    tree.write("var/lib/dpkg/status", "")
    (error,) = tree.errors()
    assert "the package database /var/lib/dpkg persists" in error.reason
    assert "directories" in error.key


def test_refuses_a_persistent_file_of_the_package_database(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('"/etc/machine-id"',
                                   '"/etc/machine-id", "/var/lib/dpkg/status"'))  # fmt: skip
    assert "/var/lib/dpkg persists" in tree.complaint()


def test_refuses_a_persistent_usr_without_the_package_database(tree: MachineTree) -> None:
    tree.write("var/lib/rpm/rpmdb.sqlite", "")
    tree.write(MAIN, SOUND + USR)
    assert "/usr persists, but the package database /var/lib/rpm does not" in tree.complaint()
    tree.write(MAIN, SOUND.replace('["/var/log"]', '["/var/log", "/var/lib/rpm"]') + USR)
    assert tree.errors() == []
    tree.write(MAIN, SOUND + USR.replace('"subvol=usr"', '"subvol=usr", "ro"'))
    assert tree.errors() == []
    assert any("/var/lib/rpm does not" in problem.reason for problem in tree.problems())


def test_accepts_a_package_database_below_usr(tree: MachineTree) -> None:
    tree.write("usr/lib/sysimage/rpm/rpmdb.sqlite", "")
    assert tree.errors() == []
    tree.write(MAIN, SOUND + USR)
    assert tree.errors() == []


@pytest.mark.parametrize("option", ["subvolid=256", "noatime,subvolid=5,subvol=root"])
def test_refuses_subvolid_in_fstab(tree: MachineTree, option: str) -> None:
    tree.write("etc/fstab", f"{DEVICE} / btrfs {option} 0 0\n")
    (error,) = tree.errors()
    assert "names the root by subvolid=" in error.reason
    assert (error.file, error.key, error.line) == (tree.show("etc/fstab"), "/", 1)


def test_refuses_subvolid_on_the_kernel_command_line(tree: MachineTree) -> None:
    tree.write("etc/kernel/cmdline", f"root={DEVICE} rootflags=noatime,subvolid=256 quiet\n")
    (error,) = tree.errors()
    assert "names the root by subvolid=" in error.reason
    assert (error.file, error.key) == (tree.show("etc/kernel/cmdline"), "rootflags")


@pytest.mark.parametrize("flags", ["", " rootflags=noatime", " rootflags=subvol=/"])
def test_refuses_a_root_without_subvol_on_the_kernel_command_line(
    tree: MachineTree, flags: str
) -> None:
    tree.write("etc/kernel/cmdline", f"root={DEVICE}{flags}")
    assert tree.complaint().startswith("the root is mounted without subvol=")


def test_refuses_a_root_without_subvol_in_fstab(tree: MachineTree) -> None:
    tree.write("etc/fstab", f"{DEVICE} / btrfs noatime 0 0\n")
    assert tree.complaint().startswith("the root is mounted without subvol=")


def test_the_kernel_command_line_takes_precedence_over_fstab(tree: MachineTree) -> None:
    tree.write("etc/fstab", f"{DEVICE} / btrfs noatime 0 0\n")
    tree.write("etc/kernel/cmdline", f"root={DEVICE} rootflags=subvol=root")
    assert tree.errors() == []


def test_warns_if_nothing_names_the_root(tree: MachineTree) -> None:
    tree.write("etc/fstab", "")
    (problem,) = tree.problems()
    assert problem.warning
    assert "cannot find the mount options of the root" in problem.reason


def test_refuses_another_root_than_the_booted_one(tree: MachineTree) -> None:
    tree.write("etc/kernel/cmdline", "root=LABEL=other rootflags=subvol=root")
    tree.write(MAIN, SOUND.replace(
        "[root.btrfs]", f'[root.btrfs]\ndevice = "{DEVICE}"\nsubvolume = "/@root"'
    ))  # fmt: skip
    problems = {problem.key: problem for problem in tree.problems()}
    assert "boots the subvolume root, not @root" in problems["root.btrfs.subvolume"].reason
    assert not problems["root.btrfs.subvolume"].warning
    assert "boots LABEL=other, not UUID=" in problems["root.btrfs.device"].reason
    tree.write("etc/kernel/cmdline", f"root={DEVICE} rootflags=subvol=@root")
    assert tree.problems() == []


@pytest.mark.parametrize(
    ("old_roots", "complaint"),
    [
        ("root/old", "old-roots (root/old) is inside root, which is wiped"),
        ("root", "old-roots (root) is inside root, which is wiped"),
    ],
)
def test_refuses_old_roots_inside_the_root(
    tree: MachineTree, old_roots: str, complaint: str
) -> None:
    tree.write(MAIN, SOUND.replace("[root.btrfs]", f'[root.btrfs]\nold-roots = "{old_roots}"'))
    assert complaint in tree.complaint()


def test_refuses_the_root_inside_old_roots(tree: MachineTree) -> None:
    tree.write("etc/fstab", f"{DEVICE} / btrfs subvol=old/root 0 0\n")
    tree.write(MAIN, SOUND.replace("[root.btrfs]", '[root.btrfs]\nold-roots = "old"'))
    assert "old-roots (old) contains old/root, which is wiped" in tree.complaint()


@pytest.mark.parametrize(
    ("subvolume", "where"),
    [
        ("root", "the subvolume root of the root"),
        ("root/persistent", "the subvolume root of the root"),
        ("/old_roots", "old-roots (old_roots) of the root"),
        ("old_roots/persistent", "old-roots (old_roots) of the root"),
        ("root-base/x", "base (root-base) of the root"),
    ],
)
def test_refuses_a_store_inside_a_wiped_target(
    tree: MachineTree, subvolume: str, where: str
) -> None:
    tree.write(MAIN, SOUND.replace("subvol=persistent", f"subvol={subvolume}"))
    assert f"the store /persistent is inside {where}" in tree.complaint()


def test_refuses_a_store_inside_the_root_by_way_of_the_top_level(tree: MachineTree) -> None:
    tree.mark("top/root/data")
    tree.write(MAIN, ROOT + VOLUME.replace("/persistent", "/top").replace("subvol=top", "subvol=/")
               .replace('"subvol=persistent"', '"subvolid=5"')
               + STORE.replace("/persistent", "/top/root/data"))  # fmt: skip
    assert "is inside the subvolume root of the root" in tree.complaint()


def test_accepts_a_store_of_the_same_name_on_another_filesystem(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace("subvol=persistent", "subvol=root")
               .replace(DEVICE, "LABEL=other"))  # fmt: skip
    assert tree.errors() == []


@pytest.mark.parametrize(
    ("store", "complaint"),
    [
        ("/srv/store", "the store /srv/store is on the root, which every boot wipes"),
        ("/run/store", "is where every boot mounts a new filesystem"),
        ("/", "/ cannot be a store"),
    ],
)
def test_refuses_a_store_on_the_root(tree: MachineTree, store: str, complaint: str) -> None:
    tree.write(MAIN, ROOT + VOLUME + STORE.replace("/persistent", store))
    assert any(complaint in error.reason for error in tree.errors())


def test_refuses_a_store_on_a_tmpfs(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('type = "btrfs"', 'type = "tmpfs"'))
    assert "a tmpfs: no file on it persists" in tree.complaint()


def test_refuses_a_store_on_a_filesystem_without_owners(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('type = "btrfs"', 'type = "vfat"'))
    assert "a vfat, which stores neither owners nor modes" in tree.complaint()


def test_refuses_a_store_on_a_volume_that_is_wiped(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT + VOLUME + 'wipe = { wiper = "btrfs", old-roots = "old" }\n' + STORE)
    assert "is on /persistent, which every boot wipes" in tree.complaint()


def test_refuses_a_store_in_the_old_roots_of_another_volume(tree: MachineTree) -> None:
    home = VOLUME.replace('"/persistent"', '"/home"').replace("subvol=persistent", "subvol=home")
    wipe = 'wipe = { wiper = "btrfs", old-roots = "persistent" }\n'
    tree.write(MAIN, ROOT + VOLUME + home + wipe + STORE)
    assert "is inside old-roots (persistent) of /home" in tree.complaint()


def test_refuses_a_required_entry_of_a_user(tree: MachineTree) -> None:
    users = '[persistence."/persistent".users.talyz]\nfiles = [{ file = "x", required = %s }]\n'
    tree.write(MAIN, SOUND + users % "true")
    assert "an entry of a user cannot be required" in tree.complaint()
    tree.write(MAIN, SOUND + users % "false")
    assert tree.errors() == []


def test_refuses_a_damaged_marker(tree: MachineTree) -> None:
    for content in ("{", "[]", '{"id": 3}', "{}", '{"id": ""}'):
        tree.write("persistent/.ephemeroot-store", content)
        assert "is damaged" in tree.complaint()


def test_warns_of_a_missing_marker(tree: MachineTree) -> None:
    (tree.path / "persistent/.ephemeroot-store").unlink()
    (problem,) = tree.problems()
    assert problem.warning
    assert problem.hint == "run 'ephemeroot apply' to write it"


HOME = VOLUME.replace('"/persistent"', '"/home"').replace("subvol=persistent", "subvol=home")


@pytest.mark.parametrize(
    ("wipe", "complaint"),
    [
        ('wiper = "btrfs"', "old-roots (old_roots) is the same as that of the root"),
        ('wiper = "btrfs", old-roots = "root/old"', "overlap"),
        ('wiper = "btrfs", old-roots = "root-base/old"', "and base (root-base) of the root"),
        ('wiper = "btrfs", old-roots = "old", base = "old_roots/x"', "old-roots (old_roots) of"),
    ],
)
def test_refuses_two_overlapping_wipes(tree: MachineTree, wipe: str, complaint: str) -> None:
    tree.write(MAIN, SOUND + HOME + f"wipe = {{ {wipe} }}\n")
    assert any(complaint in error.reason for error in tree.errors())


@pytest.mark.parametrize(
    "wipe",
    [
        'wiper = "btrfs", old-roots = "old_homes"',
        'wiper = "btrfs", old-roots = "old_homes", base = "root-base"',
    ],
)
def test_accepts_two_wipes_beside_each_other(tree: MachineTree, wipe: str) -> None:
    tree.write(MAIN, SOUND + HOME + f"wipe = {{ {wipe} }}\n")
    assert tree.errors() == []


def test_accepts_the_same_name_in_two_wipes_on_different_filesystems(tree: MachineTree) -> None:
    other = HOME.replace(DEVICE, "UUID=3c2a1b0e-0000-4000-8000-000000000002")
    tree.write(MAIN, SOUND + other + 'wipe = { wiper = "btrfs" }\n')
    assert tree.errors() == []
