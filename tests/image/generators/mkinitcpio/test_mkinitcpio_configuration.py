"""HOOKS without ephemeroot, or with it in a wrong place, are reported before an image is built. The
real bash reads them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.image.generators import installed
from ephemeroot.image.generators.mkinitcpio import presets
from machine_tree import MachineTree

BUSYBOX = "base udev autodetect modconf kms keyboard block encrypt filesystems fsck"
SYSTEMD = "base systemd autodetect modconf kms keyboard block sd-encrypt filesystems fsck"
PRESET = """\
PRESETS=(default fallback)
ALL_kver=/boot/vmlinuz-linux
default_image=/boot/initramfs-linux.img
fallback_image=/boot/initramfs-linux-fallback.img
fallback_options="-S autodetect"
"""
CONF = "etc/mkinitcpio.conf"


@pytest.fixture
def machine(tmp_path: Path) -> MachineTree:
    """An Arch system on which mkinitcpio has our hook, but no configuration yet."""
    tree = MachineTree(tmp_path)
    tree.write("usr/bin/mkinitcpio", "#!/bin/sh\n")
    tree.write("usr/lib/initcpio/install/ephemeroot", "")
    tree.write(f"{presets.PRESETS}/linux.preset", PRESET)
    return tree


def place(words: str, before: str) -> str:
    """*words* with our hook inserted before the hook *before*, or at the end."""
    return words.replace(before, f"ephemeroot {before}") if before else f"{words} ephemeroot"


GOOD = {
    "busybox": f"HOOKS=({place(BUSYBOX, 'filesystems')})",
    "systemd": f"HOOKS=({place(SYSTEMD, 'filesystems')})",
    "systemd, at the end": f"HOOKS=({place(SYSTEMD, '')})",
    "appended": f"HOOKS=({BUSYBOX})\nHOOKS+=(ephemeroot)",
    "quoted": f'HOOKS="{place(BUSYBOX, "filesystems")}"\nHOOKS=($HOOKS)',
}
BAD = {
    "busybox": (f"HOOKS=({BUSYBOX})", "HOOKS lacks ephemeroot"),
    "systemd": (f"HOOKS=({SYSTEMD})", "HOOKS lacks ephemeroot"),
    "commented out": (f"#HOOKS=({place(BUSYBOX, '')})\nHOOKS=({BUSYBOX})", "HOOKS lacks"),
    "empty": ("HOOKS=()", "HOOKS lacks ephemeroot"),
    "another word": (f"HOOKS=({BUSYBOX} ephemeroots)", "HOOKS lacks ephemeroot"),
    "too early": (f"HOOKS=({place(BUSYBOX, 'encrypt')})", "wrong order: ephemeroot before encrypt"),
    "damaged": ("HOOKS=(", "cannot read mkinitcpio"),
}


@pytest.mark.parametrize("case", GOOD)
def test_accepts_hooks_with_ephemeroot(machine: MachineTree, case: str) -> None:
    machine.write(CONF, GOOD[case] + "\n")
    assert installed.omissions(machine.path) == []


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("where", ["file", "drop-in", "preset"])
def test_check_and_apply_report_hooks_without_ephemeroot(
    machine: MachineTree, case: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, reason = BAD[case]
    named = CONF
    if where == "file":
        machine.write(CONF, text + "\n")
    elif where == "drop-in":
        machine.write(CONF, GOOD["busybox"])
        machine.write("etc/mkinitcpio.conf.d/50-hooks.conf", text + "\n")
    else:
        named = "etc/linux.conf"
        machine.write(CONF, GOOD["busybox"])
        machine.write(f"{presets.PRESETS}/linux.preset", f"{PRESET}ALL_config=/{named}\n")
        machine.write(named, text + "\n")
    assert cli.main(["check", "--json", "--root", str(machine.path)]) == 2
    (problem,) = [p for p in json.loads(capsys.readouterr().out)["problems"]
                  if p["severity"] == "error"]  # fmt: skip
    assert problem["file"] == str(machine.path / named)
    assert reason in problem["reason"]
    assert problem["hint"].startswith(("write HOOKS=(", "run 'bash -n "))
    if problem["hint"].startswith("write "):
        machine.write(named, problem["hint"].removeprefix("write ") + "\n")
        (machine.path / "etc/mkinitcpio.conf.d/50-hooks.conf").unlink(missing_ok=True)
        assert installed.omissions(machine.path) == [], "what the hint says is right"


@pytest.mark.parametrize("words", [["--dry-run"], ["--yes"]])
def test_apply_refuses_hooks_without_ephemeroot_and_writes_nothing(
    machine: MachineTree, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(CONF, f"HOOKS=({BUSYBOX})\n")
    assert cli.main(["apply", *words, "--root", str(machine.path)]) == 2
    captured = capsys.readouterr()
    assert "HOOKS lacks ephemeroot" in captured.err
    assert "rebuild" not in captured.out
    assert not (machine.path / "etc/ephemeroot/plan.json").exists()
    assert cli.main(["apply", "--no-images", *words, "--root", str(machine.path)]) == 0
    assert "HOOKS lacks ephemeroot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "lacks"),
    [("-A ephemeroot", False), ("--addhooks foo,ephemeroot", False), ("-S ephemeroot", True),
     ("--skiphooks=ephemeroot", True), ("-S fsck", True)],
)  # fmt: skip
def test_reads_the_options_of_a_preset(machine: MachineTree, options: str, lacks: bool) -> None:
    with_ours = options.lstrip("-")[0].lower() == "s" and options != "-S fsck"
    machine.write(CONF, f"HOOKS=({place(SYSTEMD, '') if with_ours else SYSTEMD})\n")
    machine.write(f"{presets.PRESETS}/linux.preset", f'{PRESET}default_options="{options}"\n')
    assert bool(installed.omissions(machine.path)) == lacks


@pytest.mark.parametrize("missing", ["usr/bin/mkinitcpio", "usr/lib/initcpio/install/ephemeroot",
                                     f"{presets.PRESETS}/linux.preset"])  # fmt: skip
def test_does_not_mention_a_generator_without_its_own_images(
    machine: MachineTree, missing: str
) -> None:
    machine.write(CONF, f"HOOKS=({BUSYBOX})\n")
    (machine.path / missing).unlink()
    assert installed.omissions(machine.path) == []
