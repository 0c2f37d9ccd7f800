"""mkinitcpio's presets: images built by them are read back before they replace the existing ones.

The real bash reads the presets; mkinitcpio is replaced by a program that packs a tree.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ephemeroot.errors import EphemerootError
from ephemeroot.image import assembly
from ephemeroot.image.generators.mkinitcpio import presets
from ephemeroot.image.generators.mkinitcpio.presets import Preset
from ephemeroot.image.generators.mkinitcpio.target import MkinitcpioTarget
from image_archives import archive, file, of_tree, unified
from image_plans import plan

PLAN = plan().dump()

ARCH = """\
# mkinitcpio preset file for the 'linux' package
ALL_config="/etc/mkinitcpio.conf"
ALL_kver="/boot/vmlinuz-linux"
PRESETS=('default' 'fallback' "odd")
default_image="/boot/initramfs-linux.img"
fallback_image="/boot/initramfs-linux-fallback.img"
fallback_options="-S autodetect"
odd_config=/etc/odd.conf
odd_image="/boot/with blank.img"
odd_options=(--skiphooks microcode,strip)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / presets.PRESETS).mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    return tmp_path


def test_reads_presets(root: Path) -> None:
    (root / presets.PRESETS / "linux.preset").write_text(ARCH)
    (root / presets.PRESETS / "uki.preset").write_text(
        "ALL_kver=6.12\nPRESETS=(default)\ndefault_uki=/efi/EFI/Linux/arch.efi\n"
    )
    (root / presets.PRESETS / "wrong.preset").write_text("PRESETS=(\n")
    found, unknown = presets.presets(root)
    kernel, config = "/boot/vmlinuz-linux", "/etc/mkinitcpio.conf"
    boot = root / "boot"
    skip = ("--skiphooks", "microcode,strip")
    assert found == [
        Preset("default", boot / "initramfs-linux.img", kernel, config, ()),
        Preset("fallback", boot / "initramfs-linux-fallback.img", kernel, config,
               ("-S", "autodetect")),
        Preset("odd", boot / "with blank.img", kernel, "/etc/odd.conf", skip),
        Preset("default", root / "efi/EFI/Linux/arch.efi", "6.12", "", (), unified=True),
    ]  # fmt: skip
    assert [preset.is_fallback for preset in found] == [False, True, False, False]
    assert len(unknown) == 1
    assert "wrong.preset" in unknown[0]


def test_without_mkinitcpio_there_are_no_images(root: Path) -> None:
    assert presets.presets(root) == ([], [])


class Generator:
    """An mkinitcpio in PATH that writes a given image, and records its arguments."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "made"
        self.called = folder / "called"
        self.status = 0
        self.program = folder / "bin/mkinitcpio"
        self.program.parent.mkdir()

    def will_make(self, members: dict[str, tuple[int, bytes]], status: int = 0) -> None:
        self.image.write_bytes(archive(members))
        self.program.write_text(
            f"#!{sys.executable}\nimport shutil, sys\n"
            f"open({str(self.called)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
            f"shutil.copy({str(self.image)!r}, sys.argv[4])\n"
            f"print('==> ERROR: module not found'); sys.exit({status})\n"
        )
        self.program.chmod(0o755)


@pytest.fixture
def generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator:
    made = Generator(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return made


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, bytes]]:
    top = tmp_path_factory.mktemp("image") / "tree"
    made = assembly.put_together(top, PLAN, MkinitcpioTarget(("base", "udev", "ephemeroot")))
    assert made.reason is None
    members = of_tree(made.tree.top)
    members["hooks/ephemeroot"] = file(b"run_hook() { :; }\n")
    members["usr/lib/modules/6.12/kernel/fs/btrfs/btrfs.ko.zst"] = file(b"")
    return members


def preset(root: Path, *options: str) -> Preset:
    image = root / "boot/initramfs-linux.img"
    image.write_text("the old one")
    return Preset("default", image, "6.12", "/etc/m.conf", options)


@pytest.mark.requires_root
class TestRebuild:
    def test_a_correct_image_replaces_the_existing_one(
        self, root: Path, generator: Generator, armed: dict[str, tuple[int, bytes]]
    ) -> None:
        generator.will_make(armed)
        one = preset(root)
        one.path.chmod(0o600)
        assert "hooks, kernel modules" in one.rebuild(PLAN)
        assert one.path.read_bytes() == generator.image.read_bytes()
        assert one.path.stat().st_mode & 0o777 == 0o600
        fresh = root / "boot/.initramfs-linux.img.ephemeroot-new"
        assert generator.called.read_text() == f"-k 6.12 -g {fresh} -c /etc/m.conf"

    @pytest.mark.parametrize("gone", ["hooks/ephemeroot", "usr/lib/ephemeroot/bundle"])
    def test_an_incomplete_image_does_not_replace_the_existing_one(
        self, root: Path, generator: Generator, armed: dict[str, tuple[int, bytes]], gone: str
    ) -> None:
        generator.will_make({name: m for name, m in armed.items() if name != gone})
        one = preset(root)
        with pytest.raises(EphemerootError, match=gone):
            one.rebuild(PLAN)
        assert [p.read_text() for p in (root / "boot").iterdir()] == ["the old one"]

    def test_an_image_built_with_errors_does_not_replace_the_existing_one(
        self, root: Path, generator: Generator, armed: dict[str, tuple[int, bytes]]
    ) -> None:
        generator.will_make(armed, status=1)
        one = preset(root)
        with pytest.raises(EphemerootError, match="module not found"):
            one.rebuild(PLAN)
        assert one.path.read_text() == "the old one"

    def test_a_fallback_image_does_not_contain_ephemeroot(
        self, root: Path, generator: Generator, armed: dict[str, tuple[int, bytes]]
    ) -> None:
        one = preset(root, "-S", "autodetect")
        generator.will_make(armed)
        with pytest.raises(EphemerootError, match="fallback"):
            one.rebuild(PLAN)
        generator.will_make({"init": file(b"")})
        assert "never wipes" in one.rebuild(PLAN)

    def test_reads_a_unified_image_back(
        self, root: Path, generator: Generator, armed: dict[str, tuple[int, bytes]]
    ) -> None:
        one = replace(preset(root), unified=True)
        generator.will_make(armed)
        generator.image.write_bytes(unified(generator.image.read_bytes()))
        assert "hooks, kernel modules" in one.rebuild(PLAN)
        assert " -U " in generator.called.read_text()
        assert one.path.read_bytes() == generator.image.read_bytes()

    @pytest.mark.parametrize("signed", [True, False])
    def test_a_signed_image_is_not_replaced_by_an_unsigned_one(
        self, root: Path, generator: Generator, armed: dict[str, tuple[int, bytes]], signed: bool
    ) -> None:
        one = replace(preset(root), unified=True)
        one.path.write_bytes(unified(b"", signed=True))
        generator.will_make(armed)
        generator.image.write_bytes(unified(generator.image.read_bytes(), signed=signed))
        before = one.path.read_bytes()
        if signed:
            one.rebuild(PLAN)
        else:
            with pytest.raises(EphemerootError, match="is signed, and the new image is not"):
                one.rebuild(PLAN)
        assert (one.path.read_bytes() == before) == (not signed)
