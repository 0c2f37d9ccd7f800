"""The files of the boot loader: saved, and restored in an order where every state boots."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.base import bootfiles, covered
from ephemeroot.errors import Refused

OLD = {
    "vmlinuz-1": "kernel 1",
    "initrd-1": "image 1",
    "grub/grub.cfg": "boot 1",
    "EFI/BOOT/a long name.efi": "loader",
}


def write(top: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def content(top: Path) -> dict[str, str]:
    return {name: (top / name).read_text() for name in bootfiles.files(top)}


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    boot = tmp_path / "boot"
    write(boot, OLD)
    bootfiles.save(boot, tmp_path / "saved")
    return boot


def test_restores_nothing_if_nothing_changed(boot: Path) -> None:
    saved = boot.parent / "saved"
    assert bootfiles.changed(saved, boot) == []
    assert bootfiles.restore(saved, boot) == []


def test_restores_every_file(boot: Path) -> None:
    saved = boot.parent / "saved"
    before = {name: (boot / name).stat().st_mtime_ns for name in OLD}
    (boot / "vmlinuz-1").unlink()
    write(boot, {"vmlinuz-2": "kernel 2", "initrd-2": "image 2", "grub/grub.cfg": "boot 2",
                 "loader/entries/2.conf": "two", "initrd-1": "image X"})  # fmt: skip
    (boot / "link").symlink_to("vmlinuz-2")
    assert sorted(bootfiles.changed(saved, boot)) == [
        "grub/grub.cfg", "initrd-1", "initrd-2", "link", "loader/entries/2.conf", "vmlinuz-2",
    ]  # fmt: skip
    bootfiles.restore(saved, boot)
    assert content(boot) == OLD
    assert {name: (boot / name).stat().st_mtime_ns for name in OLD} == before
    assert sorted(os.listdir(boot)) == ["EFI", "grub", "initrd-1", "vmlinuz-1"]


def test_writes_referenced_files_before_the_configuration_that_names_them(
    boot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step, every file that the configuration names exists, is complete, and belongs to the
    same version.
    """
    saved = boot.parent / "saved"
    for name in ("vmlinuz-1", "initrd-1"):
        (boot / name).unlink()
    write(boot, {"vmlinuz-2": "kernel 2", "initrd-2": "image 2", "grub/grub.cfg": "boot 2"})
    steps = []

    def look() -> None:
        number = (boot / "grub/grub.cfg").read_text()[-1]
        steps.append(number)
        assert (boot / f"vmlinuz-{number}").read_text() == f"kernel {number}"
        assert (boot / f"initrd-{number}").read_text() == f"image {number}"

    replace, unlink = Path.replace, Path.unlink

    def replacing(path: Path, target: Path) -> Path:
        done = replace(path, target)
        look()
        return done

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        look()

    monkeypatch.setattr(Path, "replace", replacing)
    monkeypatch.setattr(Path, "unlink", unlinking)
    bootfiles.restore(saved, boot)
    monkeypatch.undo()
    assert content(boot) == OLD
    assert steps[0] == "2"
    assert steps[-1] == "1"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "small"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(where)]
    subprocess.run(command, check=True)
    yield where
    subprocess.run(["umount", str(where)], check=True)


@pytest.mark.requires_root
def test_replaces_files_in_place_where_there_is_no_room_for_both(
    small: Path, tmp_path: Path
) -> None:
    (small / "vmlinuz-1").write_bytes(b"1" * 700_000)
    bootfiles.save(small, tmp_path / "saved")
    (small / "vmlinuz-1").unlink()
    (small / "vmlinuz-2").write_bytes(b"2" * 800_000)
    bootfiles.restore(tmp_path / "saved", small)
    assert {name: len(data) for name, data in content(small).items()} == {"vmlinuz-1": 700_000}


@pytest.mark.requires_root
def test_mounts_below_are_not_part_of_its_content(small: Path) -> None:
    """The ESP at /boot/efi has its own files."""
    write(small, {"EFI/BOOT/BOOTX64.EFI": "loader"})
    write(small.parent, {"vmlinuz-1": "kernel"})
    assert set(bootfiles.files(small.parent)) == {"vmlinuz-1"}
    assert set(bootfiles.files(small)) == {"EFI/BOOT/BOOTX64.EFI"}


def test_saves_and_compares_trees_of_any_depth(deep_trees: Path) -> None:
    """Deeper than Python's recursion limit."""
    tmp_path = deep_trees
    deep = tmp_path / "boot"
    deep.mkdir()
    for _ in range(1200):
        deep /= "d"
        deep.mkdir()
    (deep / "loader").write_text("deep")
    saved = tmp_path / "saved"
    assert bootfiles.save(tmp_path / "boot", saved) == 4
    (deep / "loader").write_text("other")
    name = str((deep / "loader").relative_to(tmp_path / "boot"))
    assert bootfiles.restore(saved, tmp_path / "boot") == [name]
    assert (deep / "loader").read_text() == "deep"
    fd = os.open(tmp_path, os.O_RDONLY)
    before = covered.look(fd, ["/boot"])
    assert len(before["/boot"]) == 1201
    covered.require_same(fd, before)
    (deep / "new").touch()
    with pytest.raises(Refused, match="wrote /boot/"):
        covered.require_same(fd, before)
    os.close(fd)
