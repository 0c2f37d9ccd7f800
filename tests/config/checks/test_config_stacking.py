"""What cannot carry a layer above an installed root, and declarations that cover the base."""

from __future__ import annotations

from pathlib import Path

import pytest

from machine_tree import DEVICE, ROOT, SOUND, STORE, VOLUME, MachineTree

OTHER = "UUID=3c2a1b0e-0000-4000-8000-000000000002"
OVERLAY = '[root]\nwiper = "overlay"\nexternal-boot = true\n[root.overlay]\n'
EXT4 = VOLUME.replace(DEVICE, OTHER).replace("btrfs", "ext4").replace('"subvol=persistent", ', "")


def layered(
    tmp_path: Path, text: str, fstab: str = f"{DEVICE} / ext4 defaults 0 1\n"
) -> MachineTree:
    tree = MachineTree(tmp_path, text)
    tree.write("etc/fstab", fstab)
    return tree


def layers_on(device: str, kind: str, options: str = "") -> str:
    return (
        OVERLAY
        + 'volume = "/layers"\n'
        + EXT4
        + f'[[volumes]]\nmount-point = "/layers"\ndevice = "{device}"\ntype = "{kind}"\n'
        + f"options = [{options}]\n"
        + STORE
    )


@pytest.mark.parametrize("kind", ["ext4", "ext3", "xfs", "f2fs"])
def test_layers_on_a_local_filesystem_are_accepted(tmp_path: Path, kind: str) -> None:
    assert layered(tmp_path, layers_on(OTHER, kind)).errors() == []


@pytest.mark.parametrize(
    ("device", "kind", "complaint"),
    [
        (OTHER, "vfat", "no layer can be on /layers, a vfat"),
        (OTHER, "exfat", "no layer can be on /layers, a exfat"),
        ("10.0.0.1:/x", "nfs4", "no layer can be on /layers, a nfs4"),
        ("tag", "virtiofs", "no layer can be on /layers, a virtiofs"),
        (DEVICE, "ext4", "the root's own filesystem"),
    ],
)
def test_layers_elsewhere_are_refused(
    tmp_path: Path, device: str, kind: str, complaint: str
) -> None:
    assert complaint in layered(tmp_path, layers_on(device, kind)).complaint()


def test_subvolume_of_the_roots_filesystem_is_accepted_and_a_directory_refused(
    tmp_path: Path,
) -> None:
    tree = layered(tmp_path / "a", layers_on(DEVICE, "ext4", '"X-mount.subdir=layers"'))
    (tmp_path / "a/layers").mkdir()
    assert "is inside of the root's own filesystem" in tree.complaint()
    text = layers_on(DEVICE, "btrfs", '"subvol=layers"').replace(
        "[root.overlay]\n", '[root.overlay]\ntype = "btrfs"\n'
    )
    line = f"{DEVICE} / btrfs subvol=root 0 0\n"
    assert layered(tmp_path / "b", text, line).errors() == []
    for name, subvolume in (("c", "root"), ("d", "root/layers"), ("e", "/")):
        same = layered(tmp_path / name, text.replace("subvol=layers", f"subvol={subvolume}"), line)
        assert "the root's own filesystem" in same.complaint()


@pytest.mark.parametrize(
    ("configured", "found", "agree"),
    [("ext4", "ext4", True), ("ext4", "ext3", True), ("ext4", "auto", True), ("xfs", "xfs", True),
     ("ext4", "xfs", False), ("xfs", "ext4", False), ("btrfs", "ext4", False)],
)  # fmt: skip
def test_type_must_be_that_of_the_root(
    tmp_path: Path, configured: str, found: str, agree: bool
) -> None:
    text = OVERLAY + f'type = "{configured}"\n' + EXT4 + STORE
    tree = layered(tmp_path, text, f"{DEVICE} / {found} defaults 0 1\n")
    if agree:
        assert tree.errors() == []
    else:
        assert f"the root is a {found}" in tree.complaint()
    tree.write("etc/kernel/cmdline", f"root={DEVICE} rootfstype=f2fs\n")
    assert any("f2fs" in problem.reason for problem in tree.errors()) or not agree


@pytest.mark.parametrize("size", ["0", "1K", "64K"])
def test_layer_in_memory_without_room_is_refused(tmp_path: Path, size: str) -> None:
    tree = layered(tmp_path, OVERLAY + f'size = "{size}"\n' + EXT4 + STORE)
    assert "size" in tree.complaint()


@pytest.mark.parametrize("path", ["/usr/bin", "/usr/libexec", "/usr/lib/modules", "/boot"])
def test_directory_that_covers_the_bases_is_refused(tmp_path: Path, path: str) -> None:
    text = SOUND.replace('["/var/log"]', f'["/var/log", "{path}"]')
    assert (
        f"{path} would cover that directory of the base"
        in MachineTree(tmp_path / "a", text).complaint()
    )
    volume = f'[[volumes]]\nmount-point = "{path}/x"\ndevice = "{OTHER}"\ntype = "ext4"\n'
    beside = SOUND.replace('["/var/log"]', f'["/var/log", "{path}-of-mine"]') + volume
    assert MachineTree(tmp_path / "b", beside).errors() == []


def test_store_on_a_read_only_volume_is_refused(tmp_path: Path) -> None:
    text = SOUND.replace('"noatime"', '"noatime", "ro"')
    assert "which is read-only" in MachineTree(tmp_path, text).complaint()


def test_users_of_whose_home_nothing_stays_are_named(tmp_path: Path) -> None:
    wiped = (
        f'[[volumes]]\nmount-point = "/home"\ndevice = "{DEVICE}"\ntype = "btrfs"\n'
        'options = ["subvol=home"]\nwipe = { wiper = "btrfs", old-roots = "old_homes" }\n'
    )
    tree = MachineTree(tmp_path, ROOT + VOLUME + wiped + STORE)
    (warning,) = [p for p in tree.problems() if "nothing is declared in the home" in p.reason]
    assert warning.warning
    assert "talyz" in warning.reason
    assert "ada" not in warning.reason, "her home is elsewhere"
    users = '[persistence."/persistent".users.talyz]\ndirectories = ["Documents"]\n'
    tree = MachineTree(tmp_path / "b", ROOT + VOLUME + wiped + STORE + users)
    assert not [p for p in tree.problems() if "nothing is declared in the home" in p.reason]


def test_overlay_on_an_overlay_root_is_a_warning(tmp_path: Path) -> None:
    entry = '{ directory = "/opt", method = "overlay" }'
    tree = layered(tmp_path, OVERLAY + EXT4 + STORE.replace('"/var/log"', f'"/var/log", {entry}'))
    assert tree.errors() == []
    assert any("as deep as the kernel" in problem.reason for problem in tree.problems())
