"""`check` reports images that are older than the applied plan, because they do not wipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.hooks import plan as plans
from ephemeroot.image import age
from image_archives import archive, file, unified
from machine_tree import MAIN, SOUND, MachineTree

PLAN = "usr/lib/ephemeroot/plan.json"
KERNELS = ("6.1.0", "6.2.0")
# Here /boot is a directory of the root.
CONFIGURATION = SOUND.replace('wiper = "btrfs"', 'wiper = "btrfs"\nexternal-boot = true')


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> MachineTree:
    """A machine with an applied configuration, two kernels and their images."""
    tree = MachineTree(tmp_path, CONFIGURATION)
    for kernel in KERNELS:
        tree.write(f"lib/modules/{kernel}/modules.dep", "")
    assert cli.main(["apply", "--yes", "--no-images", "--root", str(tmp_path)]) == 0
    for kernel in KERNELS:
        image(tree, kernel, {PLAN: (tmp_path / "etc/ephemeroot/plan.json").read_bytes()})
    capsys.readouterr()
    return tree


def image(machine: MachineTree, kernel: str, files: dict[str, bytes]) -> Path:
    members = {name: file(content) for name, content in files.items()}
    path = machine.path / f"boot/initrd.img-{kernel}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(archive({"init": file(b""), **members}))
    return path


def check(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.main(["check", "--root", str(machine.path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_accepts_current_images(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert age.findings(machine.path) == []
    assert check(machine, capsys)[-1].endswith("no problems")


def test_reads_a_unified_image(machine: MachineTree) -> None:
    path = machine.path / f"boot/EFI/Linux/linux-{KERNELS[0]}-1.efi"
    path.parent.mkdir(parents=True)
    path.write_bytes(unified(archive({"init": file(b"")})))
    (line,) = age.findings(machine.path)
    assert line.startswith(f"{path} does not contain ephemeroot")
    path.write_bytes(unified((machine.path / f"boot/initrd.img-{KERNELS[0]}").read_bytes()))
    assert age.findings(machine.path) == []


def test_reports_an_older_image(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    old = (machine.path / "etc/ephemeroot/plan.json").read_bytes()
    machine.write(MAIN, CONFIGURATION.replace('"/var/log"', '"/var/log", "/srv"'))
    said = check(machine, capsys)
    assert any("the applied generation 1 differs" in line for line in said)
    assert cli.main(["apply", "--yes", "--no-images", "--root", str(machine.path)]) == 0
    capsys.readouterr()
    new = (machine.path / "etc/ephemeroot/plan.json").read_bytes()
    assert plans.parse(new).generation == plans.parse(old).generation + 1
    image(machine, KERNELS[1], {PLAN: new})
    said = check(machine, capsys)
    assert len(said) == 3
    assert f"boot/initrd.img-{KERNELS[0]} is of generation 1, generation 2 is applied" in said[0]
    assert "ephemeroot apply" in said[1]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "does not contain ephemeroot"),
        ({"usr/lib/ephemeroot/inert": b"why\n"}, "is inert"),
        ({PLAN: b"{}"}, "cannot be read back"),
    ],
)
def test_ignores_other_images(machine: MachineTree, files: dict[str, bytes], said: str) -> None:
    path = image(machine, KERNELS[0], files)
    findings = age.findings(machine.path)
    assert len(findings) == 1
    assert str(path) in findings[0]
    assert said in findings[0]


def test_ignores_files_that_are_not_images(machine: MachineTree) -> None:
    (machine.path / f"boot/initrd.img-{KERNELS[0]}").write_bytes(b"MZ")
    assert "cannot be read back" in age.findings(machine.path)[0]


def test_reports_nothing_if_nothing_was_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = MachineTree(tmp_path, CONFIGURATION)
    tree.write("lib/modules/6.1.0/modules.dep", "")
    image(tree, "6.1.0", {})
    assert age.findings(tmp_path) == []
    assert check(tree, capsys)[-1].endswith("no problems")


def test_reports_a_damaged_plan(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    (machine.path / "etc/ephemeroot/plan.json").write_text("{}")
    assert "cannot read the applied plan" in check(machine, capsys)[0]
