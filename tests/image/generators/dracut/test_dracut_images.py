"""Which images a system has; reading one back finds every fault in it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

import kernel_images
from ephemeroot import amounts
from ephemeroot.errors import EphemerootError
from ephemeroot.image import assembly, readback
from ephemeroot.image.generators.dracut import images as dracut
from ephemeroot.image.generators.dracut.target import DracutTarget
from image_archives import Member, archive, file, of_tree
from image_plans import plan, put_together

KERNEL = "6.12.0"
ADVICE = dracut.Image(Path("/boot/initrd"), KERNEL).advice
PLAN = plan().dump()


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Member]:
    """The content of an image as dracut makes it: our files, and the files that they need."""
    made = put_together(tmp_path_factory.mktemp("image") / "tree")
    members = of_tree(made.tree.top)
    members["usr/lib/systemd/system/emergency.service"] = file(b"[Unit]\n")
    members[f"usr/lib/modules/{KERNEL}/kernel/fs/btrfs/btrfs.ko.xz"] = file(b"")
    members[f"usr/lib/modules/{KERNEL}/modules.builtin"] = file(b"kernel/fs/ext4/ext4.ko\n")
    return members


def verify(tmp_path: Path, members: dict[str, Member], raw: bytes = PLAN) -> str:
    image = tmp_path / "initrd"
    image.write_bytes(archive(members))
    return readback.verify(image, raw, ADVICE)


@pytest.mark.requires_root
class TestVerify:
    def test_accepts_a_complete_image(self, tmp_path: Path, armed: dict[str, Member]) -> None:
        assert f"plan of {amounts.size(len(PLAN))}" in verify(tmp_path, armed)

    def test_accepts_a_built_in_filesystem(self, tmp_path: Path, armed: dict[str, Member]) -> None:
        members = {name: m for name, m in armed.items() if ".ko" not in name}
        members[f"usr/lib/modules/{KERNEL}/modules.builtin"] = file(b"kernel/fs/btrfs/btrfs.ko\n")
        verify(tmp_path, members)

    @pytest.mark.parametrize(
        "gone",
        [
            "usr/lib/ephemeroot/boot",
            "usr/lib/ephemeroot/boot.pyc",
            "usr/lib/ephemeroot/bundle",
            "usr/lib/ephemeroot/settings",
            "usr/lib/systemd/system/ephemeroot-persist.service",
            "usr/lib/systemd/system/sysroot.mount.requires/ephemeroot-wipe.service",
            "usr/lib/systemd/system/emergency.service",
        ],
    )
    def test_reports_missing_files(
        self, tmp_path: Path, armed: dict[str, Member], gone: str
    ) -> None:
        members = {name: m for name, m in armed.items() if name != gone}
        with pytest.raises(EphemerootError, match=re.escape(gone)):
            verify(tmp_path, members)

    def test_reports_a_damaged_bundle(self, tmp_path: Path, armed: dict[str, Member]) -> None:
        mode, content = armed["usr/lib/ephemeroot/bundle"]
        members = armed | {"usr/lib/ephemeroot/bundle": (mode, content[:-1] + b"?")}
        with pytest.raises(
            EphemerootError, match=r"bundle is damaged: its checksum does not match"
        ):
            verify(tmp_path, members)

    def test_reports_a_missing_interpreter(self, tmp_path: Path, armed: dict[str, Member]) -> None:
        members = {name: m for name, m in armed.items() if not name.startswith("usr/bin/python")}
        with pytest.raises(EphemerootError, match=r"lacks .*python"):
            verify(tmp_path, members)

    def test_reports_a_missing_kernel_module(
        self, tmp_path: Path, armed: dict[str, Member]
    ) -> None:
        members = {name: m for name, m in armed.items() if "btrfs.ko" not in name}
        with pytest.raises(EphemerootError, match="kernel modules btrfs"):
            verify(tmp_path, members)

    def test_reports_another_plan(self, tmp_path: Path, armed: dict[str, Member]) -> None:
        with pytest.raises(EphemerootError, match="the applied plan"):
            verify(tmp_path, armed, plan(generation=8).dump())


def test_reports_an_image_without_our_files(tmp_path: Path) -> None:
    with pytest.raises(EphemerootError, match="does not contain ephemeroot"):
        verify(tmp_path, {"init": file(b"")})


def test_an_inert_image_is_not_a_success(tmp_path: Path) -> None:
    made = assembly.inert(tmp_path / "tree", "the moon was full", DracutTarget())
    with pytest.raises(EphemerootError, match="inert: the moon was full"):
        verify(tmp_path, of_tree(made.tree.top))


def test_refuses_a_file_that_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"no image at all")
    with pytest.raises(EphemerootError, match="is not an initramfs image"):
        readback.verify(tmp_path / "initrd", PLAN, ADVICE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two kernels, and the folder of a third whose package was removed."""
    for kernel in ("6.1.0", KERNEL):
        folder = tmp_path / "lib/modules" / kernel
        folder.mkdir(parents=True)
        (folder / "modules.dep").write_text("")
    (tmp_path / "lib/modules/5.9.0/updates").mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "etc").mkdir()
    return tmp_path


def test_finds_images_of_debian_and_fedora(root: Path) -> None:
    for name in ("initrd.img-6.1.0", f"initramfs-{KERNEL}.img", "initramfs-0-rescue-1234.img"):
        (root / "boot" / name).write_text("")
    found, unknown = dracut.images(root)
    assert [(i.path.name, i.kernel) for i in found] == [
        ("initrd.img-6.1.0", "6.1.0"),
        (f"initramfs-{KERNEL}.img", KERNEL),
    ]
    assert unknown == []


def test_finds_images_of_the_boot_loader_specification(root: Path) -> None:
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    image = root / f"boot/efi/0123456789abcdef0123456789abcdef/{KERNEL}/initrd"
    image.parent.mkdir(parents=True)
    image.write_text("")
    unified = root / f"boot/EFI/Linux/linux-{KERNEL}-1.efi"
    unified.parent.mkdir(parents=True)
    unified.write_text("")
    found, unknown = dracut.images(root)
    assert [i.path for i in found] == [image]
    assert len(unknown) == 2
    assert f"{unified} is a unified image" in unknown[1]
    assert "6.1.0" in unknown[0]


def test_a_failed_build_leaves_the_existing_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dracut, and with a dracut that fails or makes a wrong image."""
    image = dracut.Image(root / f"boot/initrd.img-{KERNEL}", KERNEL)
    image.path.write_bytes(b"the old one")
    programs = root / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    script = programs / "dracut"
    for body, said in (
        ("echo 'dracut[F]: no space' >&2; exit 1", "no space"),
        ("exit 0", "could not build"),
        ("echo nonsense > $2", "not an initramfs image"),
    ):
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        with pytest.raises(EphemerootError, match=said):
            image.rebuild(PLAN)
        assert image.path.read_bytes() == b"the old one"
        assert list(image.path.parent.iterdir()) == [image.path]


@pytest.mark.requires_root
def test_a_correct_image_replaces_the_existing_one(
    root: Path, armed: dict[str, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = dracut.Image(root / f"boot/initrd.img-{KERNEL}", KERNEL)
    image.path.write_bytes(b"the old one")
    image.path.chmod(0o600)
    (root / "right").write_bytes(archive(armed))
    programs = root / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    script = programs / "dracut"
    script.write_text(f'#!/bin/sh\n[ "$3" = {KERNEL} ] && cp {root}/right "$2"\n')
    script.chmod(0o755)
    assert "interpreter" in image.rebuild(PLAN)
    assert image.path.read_bytes() == archive(armed)
    assert stat.S_IMODE(image.path.stat().st_mode) == 0o600
    assert list(image.path.parent.iterdir()) == [image.path]


# As the end of Debian's dracut.sh.
DEBIANS = """\
#!/bin/sh
cp {right} "$2"
[ -z "$NO_POST_UPDATE_HOOKS" ] || exit 0
run-parts --arg="$3" --arg="$2" {hooks}
"""


@pytest.mark.requires_root
@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("copies", [(), (f"efi/{'0' * 32}/{KERNEL}/initrd.img-{KERNEL}",)])
def test_debians_hooks_get_the_name_of_the_image_in_its_place(
    root: Path,
    armed: dict[str, Member],
    monkeypatch: pytest.MonkeyPatch,
    copies: tuple[str, ...],
    status: int,
) -> None:
    """systemd-boot's writes it into the boot entry. An image of the Boot Loader Specification is
    rebuilt by itself, and kernel-install would only write over it.
    """
    hooks = root / "etc/initramfs/post-update.d"
    hooks.mkdir(parents=True)
    (root / "etc/machine-id").write_text("0" * 32 + "\n")
    for name in copies:
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"the old one")
    (root / "right").write_bytes(archive(armed))
    programs = root / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    told = root / "told"
    for script, text in (
        (programs / "dracut", DEBIANS.format(right=root / "right", hooks=hooks)),
        (hooks / "loader", f'#!/bin/sh\n[ -e "$2" ] && echo "$@" >> {told}\nexit {status}\n'),
    ):
        script.write_text(text)
        script.chmod(0o755)
    image = dracut.Image(root / f"boot/initrd.img-{KERNEL}", KERNEL)
    image.path.write_bytes(b"the old one")
    found, _ = dracut.images(root)
    assert {one.path for one in found} >= {root / name for name in copies}
    if status and not copies:
        with pytest.raises(EphemerootError, match=f"is in place, but a program in {hooks} failed"):
            image.rebuild(PLAN)
    else:
        assert ("ran the programs" in image.rebuild(PLAN)) == (not copies)
    assert image.path.read_bytes() == archive(armed)
    for name in copies:
        dracut.Image(root / name, KERNEL).rebuild(PLAN)
        assert (root / name).read_bytes() == archive(armed)
    said = told.read_text() if told.exists() else ""
    assert said == ("" if copies else f"{KERNEL} {image.path}\n")


MACHINE_ID = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
# Files on the boot filesystem, the files that identify this system, and which images are its own.
SPECIFIED: list[tuple[dict[str, str], list[str], list[str]]] = [
    ({}, [f"efi/{MACHINE_ID}/{KERNEL}/initrd"], [f"efi/{MACHINE_ID}/{KERNEL}/initrd"]),
    # Debian's hook: the name of the image in /boot.
    ({}, [f"efi/{MACHINE_ID}/{KERNEL}/initrd.img-{KERNEL}", f"boot/initrd.img-{KERNEL}"],
     [f"boot/initrd.img-{KERNEL}", f"efi/{MACHINE_ID}/{KERNEL}/initrd.img-{KERNEL}"]),
    # sdbootutil of openSUSE.
    ({"usr/lib/os-release": 'ID="opensuse-tumbleweed"\n'},
     [f"boot/efi/opensuse-tumbleweed/{KERNEL}/initrd-3fa1"],
     [f"boot/efi/opensuse-tumbleweed/{KERNEL}/initrd-3fa1"]),
    ({"etc/kernel/entry-token": "mine\n"},
     [f"boot/mine/{KERNEL}/initrd", f"boot/{MACHINE_ID}/{KERNEL}/initrd"],
     [f"boot/mine/{KERNEL}/initrd"]),
    # An image of another system, and one of another kernel.
    ({}, [f"efi/{OTHER}/{KERNEL}/initrd", f"efi/{MACHINE_ID}/6.1.0/initrd"], []),
    ({"etc/os-release": "ID=debian\n"},
     [f"efi/debian/{KERNEL}/initrd", f"efi/{MACHINE_ID}/{KERNEL}/initrd"],
     [f"efi/{MACHINE_ID}/{KERNEL}/initrd"]),
    ({"etc/kernel/entry-token": "../mine\n"}, [f"mine/{KERNEL}/initrd"], []),
]  # fmt: skip


@pytest.mark.parametrize(("says", "there", "ours"), SPECIFIED)
def test_finds_images_in_this_systems_directory_of_the_boot_filesystem(
    tmp_path: Path, says: dict[str, str], there: list[str], ours: list[str]
) -> None:
    files = {"etc/machine-id": f"{MACHINE_ID}\n", f"lib/modules/{KERNEL}/modules.dep": ""}
    for name, text in {**files, **says, **dict.fromkeys(there, "image")}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found, _ = dracut.images(tmp_path)
    assert [str(image.path.relative_to(tmp_path)) for image in found] == ours
    assert {image.release for image in found} <= {KERNEL}


# A Raspberry Pi: files on the firmware's partition, and which images are rebuilt.
FIRMWARE: list[tuple[dict[str, bytes], list[str], str]] = [
    ({"initramfs8": b"x", "kernel8.img": kernel_images.arm64(KERNEL)}, ["initramfs8"], ""),
    ({"initrd.img": b"x", "vmlinuz": kernel_images.arm64(KERNEL)}, ["initrd.img"], ""),
    ({f"initrd.img-{KERNEL}": b"x"}, [f"initrd.img-{KERNEL}"], ""),
    ({"initramfs8": b"x", "kernel8.img": kernel_images.arm64(KERNEL),
      "initramfs_2712": b"x", "kernel_2712.img": kernel_images.arm64("6.12.1-2712")},
     ["initramfs8"], "initramfs_2712 is not rebuilt: it is for the kernel 6.12.1-2712"),
    ({"initramfs8": b"x", "kernel8.img": b"no kernel"}, [], "whose release cannot be read"),
    ({"initramfs8": b"x"}, [], ""),
]  # fmt: skip


@pytest.mark.parametrize(("there", "ours", "unclear"), FIRMWARE)
def test_finds_images_that_a_firmware_starts_by_a_fixed_name(
    tmp_path: Path, there: dict[str, bytes], ours: list[str], unclear: str
) -> None:
    own = f"boot/initrd.img-{KERNEL}"
    files = {f"boot/firmware/{name}": content for name, content in there.items()}
    for name, content in {own: b"x", f"lib/modules/{KERNEL}/modules.dep": b"", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found, unknown = dracut.images(tmp_path)
    paths = [str(image.path.relative_to(tmp_path)) for image in found]
    assert sorted(paths) == sorted([own, *(f"boot/firmware/{name}" for name in ours)])
    assert {image.release for image in found} == {KERNEL}
    assert unclear in "".join(unknown)
    assert bool(unclear) == bool(unknown)


def test_links_in_the_boot_directory_are_not_firmware_images(tmp_path: Path) -> None:
    (tmp_path / f"lib/modules/{KERNEL}").mkdir(parents=True)
    (tmp_path / f"lib/modules/{KERNEL}/modules.dep").touch()
    (tmp_path / "boot").mkdir()
    (tmp_path / f"boot/initrd.img-{KERNEL}").write_bytes(b"x")
    (tmp_path / f"boot/vmlinuz-{KERNEL}").write_bytes(kernel_images.bzimage(KERNEL))
    for name in ("initrd.img", "vmlinuz"):
        (tmp_path / "boot" / name).symlink_to(f"{name}-{KERNEL}")
    assert [image.path.name for image in dracut.images(tmp_path)[0]] == [f"initrd.img-{KERNEL}"]
