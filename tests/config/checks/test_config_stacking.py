"""Filesystems that cannot hold a layer over an installed root, and declarations that hide content
of the base.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from machine_tree import DEVICE, MAIN, ROOT, SOUND, STORE, VOLUME, MachineTree

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
def test_accepts_layers_on_a_local_filesystem(tmp_path: Path, kind: str) -> None:
    assert layered(tmp_path, layers_on(OTHER, kind)).errors() == []


@pytest.mark.parametrize(
    ("device", "kind", "complaint"),
    [
        (OTHER, "vfat", "cannot keep layers on /layers: vfat"),
        (OTHER, "exfat", "cannot keep layers on /layers: exfat"),
        ("10.0.0.1:/x", "nfs4", "cannot keep layers on /layers: nfs4"),
        ("tag", "virtiofs", "cannot keep layers on /layers: virtiofs"),
        (DEVICE, "ext4", "the root's filesystem"),
    ],
)
def test_refuses_layers_on_other_filesystems(
    tmp_path: Path, device: str, kind: str, complaint: str
) -> None:
    assert complaint in layered(tmp_path, layers_on(device, kind)).complaint()


def test_accepts_a_subvolume_of_the_roots_filesystem_and_refuses_a_directory(
    tmp_path: Path,
) -> None:
    tree = layered(tmp_path / "a", layers_on(DEVICE, "ext4", '"X-mount.subdir=layers"'))
    (tmp_path / "a/layers").mkdir()
    assert "is inside the root's filesystem" in tree.complaint()
    text = layers_on(DEVICE, "btrfs", '"subvol=layers"').replace(
        "[root.overlay]\n", '[root.overlay]\ntype = "btrfs"\n'
    )
    line = f"{DEVICE} / btrfs subvol=root 0 0\n"
    assert layered(tmp_path / "b", text, line).errors() == []
    for name, subvolume in (("c", "root"), ("d", "root/layers"), ("e", "/")):
        same = layered(tmp_path / name, text.replace("subvol=layers", f"subvol={subvolume}"), line)
        assert "the root's filesystem" in same.complaint()


@pytest.mark.parametrize(
    ("configured", "found", "agree"),
    [("ext4", "ext4", True), ("ext4", "ext3", True), ("ext4", "auto", True), ("xfs", "xfs", True),
     ("ext4", "xfs", False), ("xfs", "ext4", False), ("btrfs", "ext4", False)],
)  # fmt: skip
def test_refuses_a_type_that_is_not_the_roots(
    tmp_path: Path, configured: str, found: str, agree: bool
) -> None:
    text = OVERLAY + f'type = "{configured}"\n' + EXT4 + STORE
    tree = layered(tmp_path, text, f"{DEVICE} / {found} defaults 0 1\n")
    if agree:
        assert tree.errors() == []
    else:
        assert f"cannot mount the root: it is {found} (" in tree.complaint()
    tree.write("etc/kernel/cmdline", f"root={DEVICE} rootfstype=f2fs\n")
    assert any("f2fs" in problem.reason for problem in tree.errors()) or not agree


@pytest.mark.parametrize("size", ["0", "1K", "64K"])
def test_refuses_a_layer_in_memory_without_room(tmp_path: Path, size: str) -> None:
    tree = layered(tmp_path, OVERLAY + f'size = "{size}"\n' + EXT4 + STORE)
    assert "size" in tree.complaint()


@pytest.mark.parametrize(
    "path",
    ["/usr/bin", "/usr/libexec", "/usr/lib/modules", "/boot", "/bin", "/sbin", "/lib", "/lib64",
     "/usr/lib32", "/usr/games", "/usr/share", "/usr/include", "/usr/src", "/libexec", "/efi",
     "/lib/firmware", "/usr/lib/firmware", "/usr/lib/modules/6.12.1", "/lib/modules/6.12.1/updates",
     "/usr/lib/systemd/system", "/usr/lib/x86_64-linux-gnu", "/usr/lib64/systemd", "/boot/grub",
     "/boot/efi"],
)  # fmt: skip
def test_refuses_a_directory_that_hides_the_bases(tmp_path: Path, path: str) -> None:
    text = SOUND.replace('["/var/log"]', f'["/var/log", "{path}"]')
    assert (
        f"{path} would hide the directory of the base"
        in MachineTree(tmp_path / "a", text).complaint()
    )
    volume = f'[[volumes]]\nmount-point = "{path}/x"\ndevice = "{OTHER}"\ntype = "ext4"\n'
    beside = SOUND.replace('["/var/log"]', f'["/var/log", "/opt{path}"]') + volume
    assert MachineTree(tmp_path / "b", beside).errors() == []


@pytest.mark.parametrize("path", ["/usr/share/fonts", "/usr/lib/jvm", "/usr/lib/os-release"])
def test_warns_of_a_declared_path_that_covers_system_files_below_usr(
    tmp_path: Path, path: str
) -> None:
    key = "files" if path.endswith("release") else "directories"
    text = SOUND.replace(f"{key} = [", f'{key} = ["{path}", ')
    tree = MachineTree(tmp_path, text)
    told = f"{path} would hide the"
    assert not [p for p in tree.problems() if told in p.reason], "the base does not have it"
    if key == "files":
        tree.write(path[1:], "ID=x")
    else:
        (tmp_path / path[1:]).mkdir(parents=True)
    (found,) = [p for p in tree.problems() if told in p.reason]
    assert found.warning
    (tmp_path / "usr/local/share").mkdir(parents=True, exist_ok=True)
    tree.write(MAIN, SOUND.replace('["/var/log"]', '["/var/log", "/usr/local/share"]'))
    assert not [p for p in tree.problems() if "would hide" in p.reason]


def test_accepts_an_overlay_which_shows_upgrades_of_the_base(tmp_path: Path) -> None:
    entry = '{ directory = "/usr/share", method = "overlay" }'
    tree = MachineTree(tmp_path, SOUND.replace('"/var/log"', f'"/var/log", {entry}'))
    assert tree.errors() == []


def fresh_volume(point: str) -> str:
    return (
        f'[[volumes]]\nmount-point = "{point}"\ndevice = "{DEVICE}"\ntype = "btrfs"\n'
        'options = ["subvol=wiped"]\nwipe = { wiper = "btrfs", old-roots = "old_wiped" }\n'
    )


@pytest.mark.parametrize(
    "point",
    ["/usr", "/usr/", "/usr/share", "/usr/libexec", "/usr/lib/x86_64-linux-gnu", "/lib/modules",
     "/boot", "/boot/efi", "/usr/src"],
)  # fmt: skip
def test_refuses_a_fresh_volume_that_hides_content_of_the_base(tmp_path: Path, point: str) -> None:
    tree = MachineTree(tmp_path, ROOT + VOLUME + fresh_volume(point) + STORE)
    assert "would hide the programs" in tree.complaint()


@pytest.mark.parametrize("point", ["/usr/local", "/usr/local/share", "/opt", "/srv/x", "/var/tmp"])
def test_accepts_a_fresh_volume_beside_the_base(tmp_path: Path, point: str) -> None:
    tree = MachineTree(tmp_path, ROOT + VOLUME + fresh_volume(point) + STORE)
    assert tree.problems() == []


@pytest.mark.parametrize("more", ["", "tmpfs"])
def test_says_that_fresh_volumes_for_etc_and_var_begin_empty(tmp_path: Path, more: str) -> None:
    store = STORE.replace('["/var/log"]', '["/var/data"]')
    volumes = fresh_volume("/etc") + fresh_volume("/var").replace("wiped", "wiped-var")
    tree = MachineTree(tmp_path, ROOT + VOLUME + ("" if more else volumes) + store)
    if more:
        lines = "".join(f"tmpfs {point} tmpfs x-initrd.mount 0 0\n" for point in ("/etc", "/var"))
        tree.write("etc/fstab", f"{DEVICE} / btrfs subvol=root 0 0\n{lines}")
    tree.write("var/lib/dpkg/status", "")
    told = "\n".join(p.reason for p in tree.problems())
    assert "/etc/passwd does not persist: no user can log in" in told
    assert "the package database /var/lib/dpkg is on /var, which is empty after each boot" in told
    assert all(problem.warning for problem in tree.problems())


def volume_at(point: str, options: str) -> str:
    return (
        f'[[volumes]]\nmount-point = "{point}"\ndevice = "{OTHER}"\ntype = "ext4"\n'
        f"options = [{options}]\n"
    )


@pytest.mark.parametrize("point", ["/usr", "/bin", "/usr/libexec", "/usr/lib/x86_64-linux-gnu"])
def test_programs_on_a_volume_that_is_mounted_noexec_are_refused(
    tmp_path: Path, point: str
) -> None:
    for options, refused in (
        ('"noexec"', True),
        ('"exec", "noexec"', True),
        ('"noexec", "exec"', False),
        ('"ro"', False),
    ):
        tree = MachineTree(tmp_path, ROOT + VOLUME + volume_at(point, options) + STORE)
        said = [error.reason for error in tree.errors()]
        assert any(f"{point} would be mounted with noexec" in one for one in said) == refused
        assert len(said) == refused


@pytest.mark.parametrize("point", ["/home", "/usr/local", "/usr/share", "/usr/lib/firmware"])
def test_other_volumes_may_be_mounted_noexec(tmp_path: Path, point: str) -> None:
    text = ROOT + VOLUME.replace('"noatime"', '"noexec"') + volume_at(point, '"noexec"') + STORE
    assert MachineTree(tmp_path, text).errors() == []


def test_programs_in_an_overlay_that_is_mounted_noexec_are_refused(tmp_path: Path) -> None:
    entry = '{ directory = "/usr/bin", method = "overlay", mount-options = ["noexec"] }'
    tree = MachineTree(tmp_path, ROOT + VOLUME + STORE.replace('"/var/log"', entry))
    assert "/usr/bin would be mounted with noexec" in tree.complaint()


def test_refuses_a_store_on_a_read_only_volume(tmp_path: Path) -> None:
    text = SOUND.replace('"noatime"', '"noatime", "ro"')
    assert "which is read-only" in MachineTree(tmp_path, text).complaint()


def test_names_users_whose_home_has_nothing_persistent(tmp_path: Path) -> None:
    wiped = (
        f'[[volumes]]\nmount-point = "/home"\ndevice = "{DEVICE}"\ntype = "btrfs"\n'
        'options = ["subvol=home"]\nwipe = { wiper = "btrfs", old-roots = "old_homes" }\n'
    )
    tree = MachineTree(tmp_path, ROOT + VOLUME + wiped + STORE)
    (warning,) = [p for p in tree.problems() if "no path is declared in the home" in p.reason]
    assert warning.warning
    assert "talyz" in warning.reason
    assert "ada" not in warning.reason, "her home is elsewhere"
    users = '[persistence."/persistent".users.talyz]\ndirectories = ["Documents"]\n'
    tree = MachineTree(tmp_path / "b", ROOT + VOLUME + wiped + STORE + users)
    assert not [p for p in tree.problems() if "no path is declared in the home" in p.reason]


def test_warns_of_an_overlay_on_an_overlay_root(tmp_path: Path) -> None:
    entry = '{ directory = "/opt", method = "overlay" }'
    tree = layered(tmp_path, OVERLAY + EXT4 + STORE.replace('"/var/log"', f'"/var/log", {entry}'))
    assert tree.errors() == []
    assert any("the kernel stacks no more" in problem.reason for problem in tree.problems())


CHAINS = [
    ((("overlay", 1),), 1),
    ((("overlay", 1), ("overlay", 1), ("overlay", 1)), 1),
    ((("overlay", 1), ("overlay", 2)), 2),
    ((("overlay", 1), ("overlay", 2), ("overlay", 3)), 3),
    ((("overlay", 1), ("bind", 2), ("overlay", 3)), 1),
    ((("overlay", 1), ("bind", 1), ("overlay", 2)), 2),
    ((("bind", 1), ("overlay", 2), ("overlay", 3)), 2),
    ((("bind", 1), ("overlay", 1), ("overlay", 2)), 1),
]
"""Directories inside one another, each with method and store, and the number of overlays that
result.
"""


@pytest.mark.parametrize("is_layered", [False, True])
@pytest.mark.parametrize(("chain", "depth"), CHAINS)
def test_refuses_more_overlays_than_the_kernel_stacks(
    tmp_path: Path, chain: tuple[tuple[str, int], ...], depth: int, is_layered: bool
) -> None:
    stores: dict[int, list[str]] = {}
    for number, (method, store) in enumerate(chain):
        entry = f'{{ directory = "/opt{"/a" * number}", method = "{method}" }}'
        stores.setdefault(store, []).append(entry)
    text = OVERLAY if is_layered else ROOT
    tables = "".join(
        f'[[volumes]]\nmount-point = "/store{store}"\ndevice = "LABEL=s{store}"\n'
        f'type = "ext4"\n[persistence."/store{store}"]\ndirectories = [{", ".join(entries)}]\n'
        for store, entries in stores.items()
    )
    tree = MachineTree(tmp_path, text + EXT4 + STORE + tables)
    if is_layered:
        tree.write("etc/fstab", f"{DEVICE} / ext4 defaults 0 1\n")
        # A directory that is bound from another store is not on the overlay of the root.
        depth += chain[0] == ("overlay", 1)
    for store in stores:
        tree.mark(f"store{store}")
    refused = [str(p) for p in tree.errors() if "overlays deep" in p.reason]
    assert bool(refused) == (depth > 2), tree.problems()
    warned = [p for p in tree.problems() if "the kernel stacks no more" in p.reason]
    assert bool(warned) == (depth >= 2)
    assert tree.errors() == [p for p in tree.errors() if "overlays deep" in p.reason]
