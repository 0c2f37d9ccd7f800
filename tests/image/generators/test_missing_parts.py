"""Missing parts of a generator that other packages contain are named with the command that installs
them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.image.generators import installed
from machine_tree import MAIN, SOUND, MachineTree

APT, DNF, PACMAN = "usr/bin/apt-get", "usr/bin/dnf", "usr/bin/pacman"
DRACUT, MKINITCPIO = "usr/bin/dracut", "usr/bin/mkinitcpio"
STATIC = '[network]\ninterface = "eth0"\naddress = "10.0.0.2/24"\n'


def zfs(tree: MachineTree) -> None:
    tree.write("etc/fstab", "tank/ROOT/root / zfs rw 0 0\n/dev/sda1 /boot ext4 rw 0 0\n")
    tree.write(
        MAIN, '[root]\nwiper = "zfs"\n[[volumes]]\nmount-point = "/persistent"\n'
        'device = "tank/persistent"\ntype = "zfs"\n[persistence."/persistent"]\n'
        'directories = ["/var/log"]\n',
    )  # fmt: skip


def network(tree: MachineTree, more: str = "") -> None:
    tree.write(
        MAIN, SOUND + '[[volumes]]\nmount-point = "/nas"\ndevice = "10.0.0.1:/x"\ntype = "nfs4"\n'
        "needed-for-boot = true\n" + more,
    )  # fmt: skip


def static(tree: MachineTree) -> None:
    network(tree, STATIC)


def plain(tree: MachineTree) -> None:
    assert tree.path.is_dir()


# The configuration, the generator, the package manager, the command that installs the part, and a
# file of it.
MODULES = "usr/lib/dracut/modules.d"
CASES = [
    (zfs, DRACUT, APT, "apt install zfs-dracut", f"{MODULES}/90zfs/module-setup.sh"),
    (zfs, DRACUT, DNF, "dnf install zfs-dracut", f"{MODULES}/02zfs/module-setup.sh"),
    (zfs, DRACUT, "", "install dracut's module zfs", f"{MODULES}/90zfs/module-setup.sh"),
    (network, DRACUT, APT, "apt install dracut-network", f"{MODULES}/40network/module-setup.sh"),
    (network, DRACUT, DNF, "dnf install dracut-network", f"{MODULES}/40network/module-setup.sh"),
    (static, DRACUT, APT, "apt install dracut-network",
     f"{MODULES}/90kernel-network-modules/module-setup.sh"),
    (zfs, MKINITCPIO, PACMAN, "install zfs-utils (archzfs)", "usr/lib/initcpio/install/zfs"),
    (zfs, MKINITCPIO, PACMAN, "install zfs-utils (archzfs)", "usr/lib/initcpio/install/sd-zfs"),
    (plain, DRACUT, APT, "", ""),
    (plain, MKINITCPIO, PACMAN, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("configure", "generator", "manager", "command", "file"), CASES)
def test_check_names_packages_that_an_image_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    configure: object, generator: str, manager: str, command: str, file: str,
) -> None:  # fmt: skip
    tree = MachineTree(tmp_path)
    assert callable(configure)
    configure(tree)
    for program in (generator, manager):
        if program:
            tree.write(program, "")
    # A module with a similar name is another module.
    tree.write(f"{MODULES}/95nozfs/module-setup.sh", "")
    tree.write(f"{MODULES}/35network-legacy/module-setup.sh", "")

    def found() -> list[dict[str, str]]:
        cli.main(["check", "--root", str(tmp_path), "--json"])
        problems = json.loads(capsys.readouterr().out)["problems"]
        return [p for p in problems if "without it an image cannot boot" in p["reason"]]

    if not command:
        assert found() == []
        return
    (problem,) = found()
    assert command in problem["hint"]
    assert problem["file"] == str(tree.path / MAIN)
    tree.write(file, "")
    assert found() == []


@pytest.mark.parametrize("generator", ["usr/sbin/update-initramfs", DRACUT])
def test_init_installs_the_module_for_a_root_on_zfs_with_the_generator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: str
) -> None:
    tree = MachineTree(tmp_path, None)
    zfs(tree)
    (tmp_path / MAIN).unlink()
    for name in (generator, APT):
        tree.write(name, "")

    def commands() -> list[str]:
        assert cli.main(["init", "--root", str(tmp_path), "--json"]) == 0
        steps = json.loads(capsys.readouterr().out)["steps"]
        return [command for step in steps for command in step["commands"]]

    first = commands()
    assert first[first.index("apt install zfs-dracut") - 1] == "apt install dracut" or (
        generator == DRACUT and "apt install dracut" not in first
    )
    tree.write(f"{MODULES}/90zfs/module-setup.sh", "")
    assert "apt install zfs-dracut" not in commands()


def test_ordinary_filesystems_need_no_further_packages(tmp_path: Path) -> None:
    for generator in installed.every():
        assert generator.missing(str(tmp_path), {"btrfs", "ext4", "xfs", "vfat"}, None) == []
